"""The lab's command: `python -m lab up | down | status | build | image | lend`."""

import asyncio
import pathlib
import sys
import time
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lab import (
    binaries,
    driver_image,
    errors,
    instance,
    lifecycle,
    requirements,
    settings,
)

app = typer.Typer(
    help="Real Kubernetes clusters on this machine, for development and tests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

Directory = Annotated[
    pathlib.Path,
    typer.Option("--instance", help="Folder of the lab; another folder is another lab."),
]


class Progress:
    """Says what goes on: a line a step, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, message: str) -> None:
        """Report that a step begins."""
        console.print(f"[dim]{self.seconds:6.1f} s[/]  {escape(message)}")

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._began


@app.command()
def up(
    directory: Directory = settings.DEFAULT_INSTANCE,
    driver: Annotated[bool, typer.Option(help="Install the driver, too.")] = True,
) -> None:
    """Have two clusters run; what runs already is left alone, what is missing is started."""
    progress = Progress()
    owner = instance.Instance(directory)
    _run(lifecycle.up(owner, progress, driver=driver))
    console.print(f"[green]The lab is up[/] after {progress.seconds:.1f} s:")
    for cluster in settings.CLUSTERS:
        kubeconfig = owner.cluster_directory(cluster) / "kubeconfig"
        console.print(f"  export KUBECONFIG={escape(str(kubeconfig))}")


@app.command()
def down(directory: Directory = settings.DEFAULT_INSTANCE) -> None:
    """End all that runs and remove all it left, also after a crash; built programs stay."""
    progress = Progress()
    _run(lifecycle.down(instance.Instance(directory), progress))
    console.print(f"[green]The lab is down[/] after {progress.seconds:.1f} s")


@app.command()
def status(directory: Directory = settings.DEFAULT_INSTANCE) -> None:
    """Say what runs; the exit code is 1 when a cluster is not healthy."""
    found = _run(lifecycle.status(instance.Instance(directory)))
    for cluster, complaint in found.clusters.items():
        console.print(f"{cluster}: {escape(complaint) or '[green]healthy[/]'}")
    console.print(f"{found.processes} processes")
    if not found.healthy:
        raise typer.Exit(1)


@app.command()
def build() -> None:
    """Install what is missing on the machine and build every program."""
    progress = Progress()
    _run(_build(progress))
    console.print(f"[green]Built[/] in {settings.DEFAULT_INSTANCE / 'bin'}")


@app.command()
def image() -> None:
    """Build the driver's container image into a file, and print its path."""
    progress = Progress()
    archive = _run(_image(progress))
    console.print(f"{archive.reference} is in")
    print(archive.path)


@app.command()
def lend(
    namespaces: Annotated[list[str], typer.Argument(help="Namespaces of the consumer.")],
    directory: Directory = settings.DEFAULT_INSTANCE,
) -> None:
    """Let claims of these namespaces be made in the provider."""
    _run(lifecycle.lend(instance.Instance(directory), namespaces))


@app.command()
def storage(directory: Directory = settings.DEFAULT_INSTANCE) -> None:
    """Install the loop driver, real storage that is CSI itself, in a lab that is up."""
    progress = Progress()
    _run(lifecycle.add_storage(instance.Instance(directory), progress))
    console.print(f"[green]The loop driver runs[/] after {progress.seconds:.1f} s")


async def _build(progress: Progress) -> None:
    await requirements.ensure(progress)
    every = (*settings.PIN_SETS, *settings.TEST_PIN_SETS, *settings.STORAGE_PIN_SETS)
    await binaries.ensure(settings.DEFAULT_INSTANCE / "bin", every, report=progress)


async def _image(progress: Progress) -> Any:
    await requirements.ensure(progress)
    return await driver_image.ensure(progress)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; an error that tells a person what to do is printed without its trace."""
    try:
        return asyncio.run(work)
    except* errors.LabError as group:
        for error in _leaves(group):
            console.print(f"[bold red]error:[/] {escape(str(error))}")
    except* KeyboardInterrupt:
        console.print("interrupted; run it again, or `down`")
    sys.exit(1)


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    app()
