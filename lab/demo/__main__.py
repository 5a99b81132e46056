"""Shows the driver's main job and checks it; exits with 1 when something is not so."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import pathlib
import sys
import time
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from lab import errors, settings
from lab.demo import left_behind, replicas, story, view

if TYPE_CHECKING:
    from collections.abc import Sequence


# Of a log: wide enough for the table; a terminal has its own.
LOG_WIDTH = 120


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("--instance", type=pathlib.Path, default=settings.DEFAULT_INSTANCE)
    parser.add_argument(
        "--leak-check",
        action="store_true",
        help="delete the example in the end, and see that nothing of it is left anywhere",
    )
    return parser.parse_args(arguments)


async def bring_up(directory: pathlib.Path) -> None:
    """Have the lab up; its own command reports what it does."""
    command = [sys.executable, "-m", "lab", "up", "--instance", str(directory)]
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait() != 0:
        raise errors.LabError("the lab did not come up, see above")


async def check_data(
    teller: story.Story, directory: pathlib.Path, replica: replicas.Replica
) -> str:
    """Compare what the pod reads with what lies in the home cluster's real volume.

    Raises:
        DemoError: they differ.
    """
    written = await teller.read(replica, "/data/starts")
    # A cluster's nodes see this folder as the one of the hostPath provisioner.
    real = directory / replica.home / "hostpath_pv" / pathlib.PurePath(replica.path).name
    held = await asyncio.to_thread((real / "starts").read_text)
    if not written or written != held:
        raise view.DemoError(f"{replica.pod} reads {written!r}, but {real} holds {held!r}")
    return f"is in {replica.home}"


def draw(found: Sequence[replicas.Replica], checks: Sequence[str]) -> Table:
    """Return the table of what stands behind each replica."""
    table = Table(box=box.ROUNDED)
    for title in ("pod", "node", "virtual claim", "home", "twin", "real class", "data"):
        table.add_column(title, overflow="fold", no_wrap=title != "twin")
    for replica, check in zip(found, checks, strict=True):
        where = (replica.pod, replica.node, replica.claim, replica.home)
        table.add_row(*where, replica.twin_reference, replica.real_class, check)
    return table


def say_how_to_look(console: Console, directory: pathlib.Path) -> None:
    """Tell what a person may do with the clusters that go on running."""
    shown, programs = (_shorten(path) for path in (directory, settings.DEFAULT_INSTANCE / "bin"))
    console.print(
        f"\nBoth clusters go on running. To look around:\n\n"
        f"  export PATH={programs.absolute()}:$PATH\n"
        f"  export KUBECONFIG={shown}/{story.CONSUMER}/kubeconfig"
        f"  # or {shown}/{story.PROVIDER}/kubeconfig\n"
        f"  kubectl get nodes -L {replicas.CLUSTER_KEY}\n"
        f"  kubectl -n {story.NAMESPACE} get pods,pvc -o wide\n"
        f"  kubectl get pv -o yaml                # nodeAffinity names the home\n"
        f"  kubectl get remoteclusters\n"
        f"  kubectl -n csi-liqo-storage get pvc   # the twins of this cluster\n"
        f"  kubectl -n csi-liqo logs deploy/csi-liqo-controller -c csi-liqo\n"
        f"\nmake lab-down ends them.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _shorten(path: pathlib.Path) -> pathlib.Path:
    with contextlib.suppress(ValueError):
        return path.relative_to(pathlib.Path.cwd())
    return path


async def tell(console: Console, directory: pathlib.Path, *, leak_check: bool) -> None:
    """Run the demo from beginning to end.

    Raises:
        LabError: something is not as it is shown.
    """
    async with (
        view.View.of(story.CONSUMER, directory) as rome,
        view.View.of(story.PROVIDER, directory) as milan,
    ):
        teller = story.Story(console, {story.CONSUMER: rome, story.PROVIDER: milan})
        with teller.step("Waiting for nodes with the driver, the virtual one included"):
            await teller.wait_until_ready()
        with teller.step("Removing what an earlier demo left, making the namespace"):
            await teller.make_namespace()
            await teller.clean_up()
            before = await left_behind.account(directory) if leak_check else None
        with teller.step(f"Applying {story.EXAMPLE.name}: two replicas, one in each cluster"):
            await teller.apply_example()
            found = await teller.follow()
            checks = [await check_data(teller, directory, replica) for replica in found]
        console.print(draw(found, checks))
        with teller.step("Writing a marker into each volume"):
            markers = await teller.write_markers(found)
        with teller.step("Deleting both pods, with the remote one's node cordoned"):
            said = await teller.show_gravity(found)
        console.print(f"   the scheduler says: {said}", highlight=False, markup=False)
        with teller.step("Uncordoning: both pods come back to their data"):
            again = await teller.come_back(found, markers)
            checks = [await check_data(teller, directory, replica) for replica in again]
        console.print(draw(again, checks))
        if before is not None:
            with teller.step("Deleting the example and its claims; is anything left anywhere?"):
                await teller.remove_example()
                await left_behind.require_none(directory, before)


async def main(options: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    began = time.monotonic()
    try:
        await bring_up(options.instance)
        await tell(console, options.instance.absolute(), leak_check=options.leak_check)
    except errors.LabError as error:
        console.print(f"\n[bold red]The demo failed:[/] {error}", highlight=False)
        return 1

    console.print(f"\n[bold green]All of it is so[/] ({time.monotonic() - began:.0f} s in all).")
    say_how_to_look(console, options.instance.absolute())
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parse_arguments())))
