"""``csi-liqo where``: the home of each virtual claim's data."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csi_liqo.cli import options, output
from csi_liqo.model import errors

if TYPE_CHECKING:
    from csi_liqo.app import recovering
    from csi_liqo.service.tools import whereabouts

_COLUMNS = (
    output.Column("namespace"),
    output.Column("claim"),
    output.Column("state"),
    output.Column("home"),
    output.Column("node"),
    output.Column("twin"),
    output.Column("real class"),
    output.Column("capacity"),
    output.Column("class", wide=True),
    output.Column("volume", wide=True),
    output.Column("real volume", wide=True),
    output.Column("modes", wide=True),
    output.Column("reclaim", wide=True),
)
_LEFT = (
    output.Column("cluster"),
    output.Column("twin"),
    output.Column("state"),
    output.Column("claim"),
    output.Column("real class"),
    output.Column("capacity"),
    output.Column("created"),
    output.Column("volume", wide=True),
    output.Column("real volume", wide=True),
)
_SHORT = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def where(
    *,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Only claims of this namespace.")
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, and show each change.")
    ] = False,
    orphans: Annotated[
        bool,
        typer.Option(
            "--orphans", help="Instead, the twins that no volume names: abandoned, or begun."
        ),
    ] = False,
    retained: Annotated[
        bool, typer.Option("--retained", help="Instead, the twins whose data was to be kept.")
    ] = False,
    driver_name: options.DriverName = options.DEFAULT_DRIVER,
    consumer_id: options.ConsumerId = "",
    remote_clusters: options.RemoteClusters = None,
    allowed_exec_plugins: options.ExecPlugins = "",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    form: options.Output = options.Format.TABLE,
) -> None:
    """Tell where the data of each virtual claim is.

    Reads this cluster's claims and volumes and nothing else. With --orphans or --retained
    it looks into the providers as well, with the credentials that the driver has, and exits
    with 3 when one of them could not be looked at, because the list is not whole then.
    """
    from csi_liqo.app import tools

    at = options.where(kubeconfig, context)
    if orphans or retained:
        if watch or namespace:
            raise errors.InvalidRequestError("--orphans and --retained know neither -n nor -w")
        states = {"abandoned", "started"} if orphans else set()
        states |= {"retained"} if retained else set()
        from csi_liqo.app import recovering

        given = options.given(consumer_id, remote_clusters, allowed_exec_plugins)
        left, hidden = options.run(recovering.twins_left(at, given, driver_name, states))
        _print_left(left, hidden, form)
        return
    if watch:
        show = _Live(form) if sys.stdout.isatty() and not output.is_document(form) else _Lines(form)
        with show:
            options.run(tools.watch_whereabouts(at, namespace, show.take))
        return
    rows = options.run(tools.whereabouts_of(at, namespace))
    if output.is_document(form):
        output.print_document([_document(row) for row in rows], form)
    elif rows:
        cells = [_cells(row) for row in rows]
        output.print_table(_COLUMNS, cells, wide=form is options.Format.WIDE)
    else:
        print("no virtual claims found", file=sys.stderr)


def _print_left(
    left: Sequence[recovering.Left], hidden: Sequence[str], form: options.Format
) -> None:
    import dataclasses

    for what in hidden:
        print(f"out of sight: {what}; this list is not whole, without twins there", file=sys.stderr)
    if output.is_document(form):
        output.print_document([dataclasses.asdict(twin) for twin in left], form)
    elif left:
        cells = [
            [
                *(twin.cluster, twin.twin, twin.state, twin.claim, twin.real_class),
                *(twin.capacity, twin.created, twin.volume, twin.real_volume),
            ]
            for twin in left
        ]
        output.print_table(_LEFT, cells, wide=form is options.Format.WIDE)
    else:
        where_seen = " in the clusters that could be looked at" if hidden else ""
        print(f"no such twins found{where_seen}", file=sys.stderr)
    if hidden:
        raise typer.Exit(options.INCOMPLETE)


class _Live:
    """One table that stays where it is and changes, for a terminal."""

    def __init__(self, form: options.Format) -> None:
        from rich import live

        self._wide = form is options.Format.WIDE
        self._live = live.Live(auto_refresh=False)

    def __enter__(self) -> _Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def take(self, rows: Sequence[whereabouts.Row]) -> None:
        """Show how it is now."""
        cells = [_cells(row) for row in rows]
        table = output.forge_table(_COLUMNS, cells, wide=self._wide, cut=True)
        self._live.update(table, refresh=True)


class _Lines:
    """A line for each row that is new, changed or gone, for the next program in a pipe."""

    def __init__(self, form: options.Format) -> None:
        self._form = form
        self._shown: dict[tuple[str, str, str], whereabouts.Row] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def take(self, rows: Sequence[whereabouts.Row]) -> None:
        """Print what differs from before."""
        import dataclasses

        now = {row.key: row for row in rows}
        gone = [self._shown[key] for key in self._shown.keys() - now.keys()]
        changed = [row for key, row in now.items() if self._shown.get(key) != row]
        self._shown = now
        for row in (*changed, *(dataclasses.replace(row, state="Gone") for row in gone)):
            self._print(row)
        sys.stdout.flush()

    def _print(self, row: whereabouts.Row) -> None:
        if self._form is options.Format.JSON:
            print(json.dumps(_document(row)))
        elif self._form is options.Format.YAML:
            print("---")
            output.print_document(_document(row), self._form)
        else:
            wide = self._form is options.Format.WIDE
            cells = zip(_COLUMNS, _cells(row), strict=True)
            shown = [cell or output.NOTHING for column, cell in cells if wide or not column.wide]
            print("   ".join(shown))


def _cells(row: whereabouts.Row) -> list[str]:
    return [
        row.namespace,
        row.claim,
        row.state,
        row.home,
        row.node,
        row.twin,
        row.real_class,
        row.capacity,
        row.virtual_class,
        row.volume,
        row.real_volume,
        ",".join(_SHORT.get(mode, mode) for mode in row.access_modes),
        row.reclaim_policy,
    ]


def _document(row: whereabouts.Row) -> dict[str, Any]:
    return {
        "namespace": row.namespace,
        "claim": row.claim,
        "state": row.state,
        "home": row.home or None,
        "node": row.node or None,
        "twin": row.twin or None,
        "virtualClass": row.virtual_class,
        "realClass": row.real_class or None,
        "capacity": row.capacity or None,
        "volume": row.volume or None,
        "realVolume": row.real_volume or None,
        "accessModes": list(row.access_modes),
        "reclaimPolicy": row.reclaim_policy or None,
        "health": row.health or None,
        "created": row.created,
    }
