"""The command: `python -m bench run` measures, `python -m bench report` writes the README."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from bench import (
    fabric,
    figures,
    hanging,
    inventory,
    node,
    plots,
    pods,
    provisioning,
    requests,
    surroundings,
    table,
    whole,
)
from lab import binaries, errors, instance, requirements, settings

app = typer.Typer(
    help="How fast the driver is, beside what it cannot be faster than.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

OUT: Final = settings.REPOSITORY / "bench" / "out"
RESULTS: Final = OUT / "results.json"
README: Final = settings.REPOSITORY / "bench" / "README.md"
PLOTS: Final = settings.REPOSITORY / "bench" / "plots"
INSTANCE: Final = OUT / "lab"

Report = Callable[[str], None]
Figures = Awaitable[list[figures.Figure]]

# Name -> the measurement, by what it runs in; in the order of their value.
ON_FABRIC: Final[Mapping[str, Callable[[fabric.Fabric, provisioning.Effort, Report], Figures]]] = {
    "provisioning-one": provisioning.one,
    "provisioning-burst": provisioning.burst,
    "deletion": provisioning.deletion,
    "requests": requests.measure,
    "remote": provisioning.remote,
    "hanging-provider": hanging.measure,
}
ON_NODE: Final[Mapping[str, Callable[[node.Node, provisioning.Effort, Report], Figures]]] = {
    node.OVERHEAD: node.overhead,
    node.PLUGIN: node.plugin,
}
ON_LAB: Final[Mapping[str, Callable[[whole.Lab, provisioning.Effort, Report], Figures]]] = {
    pods.START: pods.start,
    pods.DATA_PATH: pods.data_path,
}
NAMES: Final = (*ON_FABRIC, *ON_NODE, inventory.GROUP, *ON_LAB)


class Progress:
    """Says what goes on: a line a step, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, message: str) -> None:
        """Report that a step begins."""
        console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {escape(message)}")


@app.command()
def run(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Measure only this; may be repeated: {', '.join(NAMES)}."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of single things.")] = 5,
    bursts: Annotated[int, typer.Option(min=1, help="Runs of many things at once.")] = 3,
    percent: Annotated[int, typer.Option(min=1, max=100, help="Size of each burst.")] = 100,
) -> None:
    """Measure, and write bench/out/results.json, plots beside it, and a table.

    Figures of an earlier run that are not measured now stay in the results.
    """
    unknown = sorted(set(only or ()) - set(NAMES))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}; known are {', '.join(NAMES)}")
    effort = provisioning.Effort(runs, bursts, percent)
    wanted = only or list(NAMES)
    try:
        asyncio.run(_measure(wanted, effort, Progress()))
    except* errors.LabError as group:
        for error in group.exceptions:
            console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(1)
    table.show(figures.read(RESULTS), console)


@app.command()
def report() -> None:
    """Put the table of the last results into bench/README.md, and the plots beside it."""
    results = figures.read(RESULTS)
    drawn = plots.draw(results, PLOTS)
    table.put_into(README, results, [path.relative_to(README.parent) for path in drawn])


async def _measure(wanted: Sequence[str], effort: provisioning.Effort, say: Report) -> None:
    options = {"runs": effort.runs, "bursts": effort.bursts, "percent": effort.percent}
    known = await surroundings.describe(options)
    links = settings.DEFAULT_INSTANCE / "bin"
    needed = ("etcd", "kubernetes", "provisioner", "loopdriver", *settings.BENCH_PIN_SETS)
    await requirements.ensure(say)
    await binaries.ensure(links, needed, say)

    def keep(found: Sequence[figures.Figure]) -> None:
        """Write at once: a later measurement may fail."""
        made = figures.merge(figures.read(RESULTS), known, [f.as_json() for f in found])
        figures.write(RESULTS, made)

    if chosen := [name for name in ON_FABRIC if name in wanted]:
        async with _fresh("fabric") as owner, fabric.running(owner, say) as clusters:
            for name in chosen:
                keep(await ON_FABRIC[name](clusters, effort, say))
    if chosen := [name for name in ON_NODE if name in wanted]:
        async with _fresh("node") as owner, node.running(owner) as host:
            for name in chosen:
                keep(await ON_NODE[name](host, effort, say))
    if inventory.GROUP in wanted:
        async with _fresh("inventory") as owner:
            keep(await inventory.measure(owner, effort, say))
    if chosen := [name for name in ON_LAB if name in wanted]:
        # NB: no folder of nodes is removed but by the lab itself, which knows what is mounted.
        owner = instance.Instance(INSTANCE / "whole", links)
        async with whole.running(owner, say) as lab:
            for name in chosen:
                keep(await ON_LAB[name](lab, effort, say))
    plots.draw(figures.read(RESULTS), OUT)


@contextlib.asynccontextmanager
async def _fresh(name: str) -> AsyncIterator[instance.Instance]:
    """Offer an instance of the lab of which nothing is left afterwards but logs of a failure."""
    directory: pathlib.Path = INSTANCE / name
    shutil.rmtree(directory, ignore_errors=True)
    yield instance.Instance(directory, settings.DEFAULT_INSTANCE / "bin")
    shutil.rmtree(directory)


if __name__ == "__main__":
    app()
