"""Whether a provider that hangs slows creations that do not concern it."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from typing import Final

from bench import bursts, fabric, figures, provisioning
from lab import control_plane

Report = Callable[[str], None]

HANGING: Final = 20
"""Remote claims that are being made all the while: each holds a call and a worker."""
LOCAL: Final = 20
SETTLING: Final = 3
"""Creations before those that count: what making the remote claims began comes to its end."""
GROUP: Final = "hanging-provider"


async def measure(
    clusters: fabric.Fabric, effort: provisioning.Effort, report: Report
) -> list[figures.Figure]:
    """Measure single local creations by turns, while the provider answers and while it hangs."""
    made = bursts.Bursts(clusters)
    await _without(made)
    well: list[float] = []
    hanging: list[float] = []
    for run in range(effort.runs):
        report(f"one hanging provider, run {run + 1}")
        well.append(await _without(made))
        hanging.append(await _while_hanging(clusters, made))
    return [
        figures.Figure(
            group=GROUP,
            name="local creation while a provider hangs",
            unit="x without",
            target=1.1,
            samples=[slow / usual for slow, usual in zip(hanging, well, strict=True)],
            parts={"while it hangs, s": hanging, "without, s": well},
            note=f"medians of {LOCAL} claims one after another; {HANGING} remote claims hang",
        )
    ]


async def _local(made: bursts.Bursts) -> float:
    """Return the median of single creations; what they made stays."""
    seconds = [
        await made.provision(bursts.VIRTUAL_HOST_PATH, made.names(1))
        for _ in range(SETTLING + LOCAL)
    ]
    return statistics.median(seconds[SETTLING:])


async def _without(made: bursts.Bursts) -> float:
    seconds = await _local(made)
    await made.clear(bursts.VIRTUAL_HOST_PATH)
    return seconds


async def _while_hanging(clusters: fabric.Fabric, made: bursts.Bursts) -> float:
    """Stop the provider's API server: its connections stay open and nobody answers."""
    daemon = clusters.milan.components[control_plane.API_SERVER]
    names = made.names(HANGING)
    daemon.pause()
    try:
        remote = asyncio.create_task(made.provision(bursts.REMOTE_NOW, names))
        await _attempted(clusters, names)
        seconds = await _local(made)
    finally:
        daemon.resume()
    await remote
    await made.clear(bursts.REMOTE_NOW)
    return seconds


async def _attempted(clusters: fabric.Fabric, names: list[str]) -> None:
    """Wait until every remote claim is at the point where the provider is written to."""

    def noted(_: str, item: fabric.Json) -> bool:
        told = {text.rpartition("/")[2] for text in item.get("data", {}).values()}
        return told.issuperset(names)

    async with bursts.watching(clusters.consumer, fabric.NOTES, noted) as watched:
        await watched.all_of(["csi-liqo-attempts"])
