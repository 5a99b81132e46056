"""How long claims take to be bound, and volumes to be gone, against the floor of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bench import bursts, fabric, figures

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """How often, and how large compared to the whole, things are measured.

    Attributes:
        runs: of single things.
        bursts: of many things at once.
        percent: of the size of each burst.
    """

    runs: int = 5
    bursts: int = 3
    percent: int = 100

    def size(self, whole: int) -> int:
        """Return how many there are instead of the whole number."""
        return max(2, whole * self.percent // 100)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A virtual way and the parts of its floor.

    Attributes:
        virtual: what is measured.
        real: the way of its real volumes alone.
        real_binds: whether those must be bound, or only be there.
    """

    virtual: bursts.Way
    real: bursts.Way
    real_binds: bool = True


HOST_PATH = Comparison(bursts.VIRTUAL_HOST_PATH, bursts.HOST_PATH)
LOOP = Comparison(bursts.VIRTUAL_LOOP, bursts.LOOP)
REMOTE_NOW = Comparison(bursts.REMOTE_NOW, bursts.PROVIDER_NOW)
REMOTE_WAITS = Comparison(bursts.REMOTE_WAITS, bursts.PROVIDER_WAITS, real_binds=False)


async def one(clusters: fabric.Fabric, effort: Effort, report: Report) -> list[figures.Figure]:
    """Measure one claim over each real class."""
    made = bursts.Bursts(clusters)
    return [
        await _compare(made, "provisioning-one", pair, 1, effort.runs, 1.3, report)
        for pair in (HOST_PATH, LOOP)
    ]


async def burst(clusters: fabric.Fabric, effort: Effort, report: Report) -> list[figures.Figure]:
    """Measure many claims at once over each real class."""
    made = bursts.Bursts(clusters)
    group, runs = "provisioning-burst", effort.bursts
    return [
        await _compare(made, group, pair, effort.size(whole), runs, 1.15, report)
        for pair, whole in ((HOST_PATH, 500), (LOOP, 200))
    ] + [await _retried(made, group)]


async def remote(clusters: fabric.Fabric, effort: Effort, report: Report) -> list[figures.Figure]:
    """Measure one and many claims in a provider, of a class of either binding mode."""
    made = bursts.Bursts(clusters)
    found = []
    for pair in (REMOTE_NOW, REMOTE_WAITS):
        for count, runs in ((1, effort.runs), (effort.size(200), effort.bursts)):
            found.append(await _compare(made, "remote", pair, count, runs, 1.3, report))
    return [*found, await _retried(made, "remote")]


async def deletion(clusters: fabric.Fabric, effort: Effort, report: Report) -> list[figures.Figure]:
    """Measure how long many volumes take to be gone."""
    made = bursts.Bursts(clusters)
    count = effort.size(200)
    parts: dict[str, list[float]] = {}
    whole: list[float] = []
    virtual: list[float] = []
    for run in range(effort.bursts):
        for way in (bursts.HOST_PATH, bursts.NOOP, bursts.VIRTUAL_HOST_PATH):
            report(f"deletion of {count}, run {run + 1}: {way.name}")
            names = made.names(count)
            await made.provision(way, names)
            last_real, last = await made.delete(way, names)
            if way is bursts.VIRTUAL_HOST_PATH:
                whole.append(last_real)
                virtual.append(last)
            else:
                parts.setdefault(way.name, []).append(last)
    figure = figures.against_floor(
        "deletion",
        f"deletion of {count}, virtual over hostPath",
        1.15,
        whole,
        parts,
        beside={"to the last virtual volume, s": virtual},
        note="from the first claim's deletion to the end of the last real volume",
    )
    return [figure, await _retried(made, "deletion")]


async def _compare(
    made: bursts.Bursts,
    group: str,
    pair: Comparison,
    count: int,
    runs: int,
    target: float,
    report: Report,
) -> figures.Figure:
    """Measure a way and the parts of its floor by turns."""
    what = "one claim" if count == 1 else f"{count} claims at once"
    times: dict[str, list[float]] = {}
    if count == 1:  # the first of all pays for what later ones find
        await _turn(made, pair, 1)
    used: dict[str, list[float]] = {}
    for run in range(runs):
        report(f"{what}, {pair.virtual.name}: run {run + 1}")
        seconds, processors = await _turn(made, pair, count)
        for name, value in seconds.items():
            times.setdefault(name, []).append(value)
        for name, value in processors.items():
            used.setdefault(f"virtual: {name}, processor s", []).append(value)
    whole = times.pop(pair.virtual.name)
    name = f"provisioning of {what}, {pair.virtual.name}"
    return figures.against_floor(group, name, target, whole, times, beside=used)


async def _turn(
    made: bursts.Bursts, pair: Comparison, count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of each way, and what programs used of the processors in the virtual."""
    times: dict[str, float] = {}
    used: dict[str, float] = {}
    for way in (pair.real, bursts.NOOP, pair.virtual):
        names = made.names(count)
        binds = pair.real_binds if way is pair.real else True
        with made.processors() as counted:
            times[way.name] = await made.provision(way, names, binds=binds)
        used = counted
        await made.clear(way)
    return times, used


async def _retried(made: bursts.Bursts, group: str) -> figures.Figure:
    failures: Sequence[float] = [await made.failures()]
    return figures.Figure(
        group=group,
        name=f"claims retried by backoff: {group}",
        unit="claims",
        target=0,
        samples=failures,
        note="events ProvisioningFailed and VolumeFailedDelete since the clusters were started",
    )
