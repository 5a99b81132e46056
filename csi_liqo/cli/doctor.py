"""``csi-liqo doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from csi_liqo.cli import options, output

if TYPE_CHECKING:
    from csi_liqo.service.tools.doctor import findings

_COLUMNS = (
    output.Column("level"),
    output.Column("check"),
    output.Column("finding", prose=True),
    output.Column("remedy", prose=True),
)


def doctor(
    *,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="First make again what can be: twins that somebody deleted."),
    ] = False,
    driver_name: options.DriverName = options.DEFAULT_DRIVER,
    consumer_id: options.ConsumerId = "",
    remote_clusters: options.RemoteClusters = None,
    allowed_exec_plugins: options.ExecPlugins = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    form: options.Output = options.Format.TABLE,
) -> None:
    """Look at all that an operator would; exit with 1 when something is wrong.

    Changes nothing without --repair. What may not be read is told, and is no error.
    """
    from csi_liqo.app import tools
    from csi_liqo.service.tools.doctor import findings

    at = options.where(kubeconfig, context)
    given = options.given(consumer_id, remote_clusters, allowed_exec_plugins)
    if repair:
        from csi_liqo.app import recovering

        done, hidden = options.run(recovering.mend(at, given, driver_name))
        for what in hidden:
            print(f"out of sight: {what}; no twin was repaired there", file=sys.stderr)
        for mended in done:
            told = f"not repaired: {mended.trouble}" if mended.trouble else f"twin {mended.twin}"
            print(f"volume {mended.volume}: {told}", file=sys.stderr)
    found = options.run(tools.examine(at, given))
    if output.is_document(form):
        output.print_document([_document(finding) for finding in found], form)
    else:
        output.print_table(_COLUMNS, [_cells(finding) for finding in found])
    if any(finding.level is findings.Level.ERROR for finding in found):
        raise typer.Exit(1)


def _cells(finding: findings.Finding) -> Sequence[str]:
    return [finding.level.value, finding.check, finding.message, finding.remedy]


def _document(finding: findings.Finding) -> dict[str, str]:
    return {
        "level": finding.level.value,
        "check": finding.check,
        "finding": finding.message,
        "remedy": finding.remedy,
    }
