"""Whether the example left anything behind, in both clusters and on all their nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from lab import leaks, processes, settings
from lab.demo import view

if TYPE_CHECKING:
    import pathlib

# kubelet unmounts a staged volume after its last pod is gone; nothing announces the end.
SETTLE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.5


async def account(directory: pathlib.Path) -> leaks.Snapshot:
    """Account for all that a driver can leave behind, in a lab's directory."""
    taken = leaks.Snapshot()
    for cluster, nodes in settings.CLUSTERS.items():
        home = directory / cluster
        taken |= await leaks.snapshot_cluster(
            cluster, home / "kubeconfig", hostpath=home / "hostpath_pv"
        )
        for node in nodes:
            holder = processes.read_identity(home / node / "holder.pid")
            if holder is None or not holder.alive():
                raise view.DemoError(f"node {node} of the lab does not run")
            taken |= await asyncio.to_thread(leaks.snapshot_node, node, holder.pid)
    return taken


async def require_none(directory: pathlib.Path, before: leaks.Snapshot) -> None:
    """Return when there is nothing that was not there before.

    Raises:
        DemoError: something stays; the text lists it.
    """
    ended = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while came := sorted((await account(directory)).entries - before.entries):
        if asyncio.get_running_loop().time() > ended:
            raise view.DemoError("left behind: " + "; ".join(map(str, came)))
        await asyncio.sleep(_POLL_SECONDS)
