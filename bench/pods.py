"""What a pod has of a virtual volume beside a real one of the same class: start and speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from bench import figures, provisioning, whole
from lab import settings

Report = Callable[[str], None]
Json = dict[str, Any]

START: Final = "pod-start"
DATA_PATH: Final = "data-path"

_FIO: Final = (
    *("fio", "--name=speed", "--output-format=json", "--ioengine=psync", "--direct=1"),
    *("--size=64M", "--overwrite=1"),
)
_FILL: Final = ("--rw=write", "--bs=1M")
_TIMED: Final = ("--time_based", "--runtime=1")
_JOBS: Final = {
    "sequential writes of 1 MiB": ("--rw=write", "--bs=1M"),
    "sequential reads of 1 MiB": ("--rw=read", "--bs=1M"),
    "random writes of 4 KiB": ("--rw=randwrite", "--bs=4k"),
    "random reads of 4 KiB": ("--rw=randread", "--bs=4k"),
}


async def start(
    lab: whole.Lab, effort: provisioning.Effort, report: Report
) -> list[figures.Figure]:
    """Start pods with bound volumes by turns, and compare each pair."""
    found = []
    for what, pair in (
        ("hostPath", whole.HOST_PATH),
        ("loop driver", whole.LOOP),
        ("attaching loop driver", whole.LOOP_ATTACHING),
    ):
        times: dict[str, list[float]] = {way.name: [] for way in pair}
        async with lab.volumes(pair):
            for run in range(effort.runs):
                report(f"pod start, {what}: run {run + 1}")
                for way in pair:
                    times[way.name].append(await lab.start(way))
                    await lab.end(way)
        real, virtual = times.values()
        found.append(
            figures.Figure(
                group=START,
                name=f"pod start, added over {what}",
                unit="ms",
                target=150.0,
                samples=[
                    1000 * (ours - theirs) for theirs, ours in zip(real, virtual, strict=True)
                ],
                parts={"real, s": real, "virtual, s": virtual},
                note="from the pod's creation to the first line of its container, by turns",
            )
        )
    return found


async def data_path(
    lab: whole.Lab, effort: provisioning.Effort, report: Report
) -> list[figures.Figure]:
    """Run the same jobs of fio on both by turns, on volumes of their own for each run.

    Where the blocks of an image came to lie is luck, and the same for all jobs on it.
    """
    found = []
    for what, pair in (("ext4", whole.LOOP), ("block device", whole.LOOP_BLOCK)):
        rates: dict[str, dict[str, list[float]]] = {
            job: {way.name: [] for way in pair} for job in _JOBS
        }
        for run in range(effort.bursts):
            report(f"data path, {what}: run {run + 1}")
            ways = pair[::-1] if run % 2 else pair
            async with lab.volumes(ways):
                for way in ways:
                    await lab.start(way, settings.FIO_IMAGE)
                    # The first one finds room in the image, which is no part of the path.
                    await _speed(lab, way, _FILL)
                for job, arguments in _JOBS.items():
                    for way in ways:
                        speed = await _speed(lab, way, (*arguments, *_TIMED))
                        rates[job][way.name].append(speed)
                for way in ways:
                    await lab.end(way)
        found += [
            _compare(f"data path, {what}: {job}", *by_way.values()) for job, by_way in rates.items()
        ]
    return found


async def _speed(lab: whole.Lab, way: whole.Way, arguments: tuple[str, ...]) -> float:
    place = "/dev/data" if way.block else "/data/fio"
    printed = await lab.kubectl("exec", way.name, "--", *_FIO, *arguments, f"--filename={place}")
    (job,) = json.loads(printed[printed.index("{") :])["jobs"]
    return float(job["read"]["iops"] or job["write"]["iops"])


def _compare(name: str, real: list[float], virtual: list[float]) -> figures.Figure:
    """Return how much slower the virtual one is; the real one's own spread is the noise."""
    usual = sorted(real)[len(real) // 2]
    noise = max(usual / min(real), max(real) / usual)
    return figures.Figure(
        group=DATA_PATH,
        name=name,
        unit="x real",
        target=round(max(noise, 1.05), 3),
        samples=[theirs / ours for theirs, ours in zip(real, virtual, strict=True)],
        parts={"real, operations/s": real, "virtual, operations/s": virtual},
        note="time of an operation against the real volume's; the target is the real one's noise",
    )
