"""Options that several commands share, and the way a command is run."""

from __future__ import annotations

import pathlib
from collections.abc import Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from csi_liqo.model import controller_settings, names

if TYPE_CHECKING:
    from csi_liqo.app import tools
    from csi_liqo.service.tools import told

DEFAULT_DRIVER = names.DEFAULT_DRIVER
T = TypeVar("T")

INCOMPLETE: Final = 3
"""Exit code of a list that was printed and is not whole: a cluster could not be looked at."""


class Format(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


Kubeconfig = Annotated[
    pathlib.Path | None,
    typer.Option(help="How to reach this cluster [default: as kubectl does]."),
]
Context = Annotated[str | None, typer.Option(help="The context of that kubeconfig to use.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.", show_choices=True)]
DriverName = Annotated[str, typer.Option(help="The installation's CSI driver name.")]
ConsumerId = Annotated[
    str, typer.Option(help="This cluster's id [default: what the installation was told].")
]

RemoteClusters = Annotated[
    controller_settings.RemoteClusterSource | None,
    typer.Option(
        envvar="CSI_LIQO_REMOTE_CLUSTERS",
        help="What describes providers [default: what the installation was told].",
    ),
]
ExecPlugins = Annotated[
    str,
    typer.Option(
        envvar="CSI_LIQO_ALLOWED_EXEC_PLUGINS",
        help="Programs of this machine that a provider's kubeconfig may start: absolute paths, by "
        "commas.",
    ),
]


def run(doing: Coroutine[Any, Any, T]) -> T:
    """Do what a command does.

    The import is half of what a node plugin's start would wait for here, and it needs none.
    """
    import asyncio

    return asyncio.run(doing)


def where(kubeconfig: pathlib.Path | None, context: str | None) -> tools.Where:
    """Return how a person reaches this cluster."""
    from csi_liqo.app import tools

    return tools.Where(kubeconfig, context)


def given(
    consumer_id: str,
    remote_clusters: controller_settings.RemoteClusterSource | None,
    allowed_exec_plugins: str,
) -> told.Told:
    """Return what a person says of the installation; the rest it is asked for itself.

    Raises:
        errors.InvalidRequestError: a program is not named by its absolute path.
    """
    from csi_liqo.service.tools import told

    return told.Told(
        cluster_id=consumer_id,
        source=remote_clusters,
        exec_plugins=controller_settings.read_exec_plugins(allowed_exec_plugins),
    )
