"""Options that several commands share, and the way a command is run."""

from __future__ import annotations

import pathlib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from csi_liqo.model import names

if TYPE_CHECKING:
    from csi_liqo.app import tools

DEFAULT_DRIVER = names.DEFAULT_DRIVER


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


def where(kubeconfig: pathlib.Path | None, context: str | None) -> tools.Where:
    """Return how a person reaches this cluster."""
    from csi_liqo.app import tools

    return tools.Where(kubeconfig, context)
