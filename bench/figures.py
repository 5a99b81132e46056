"""What a measurement yields: figures with their samples, and what they are made of.

A figure of time is mostly a ratio: to parts that were measured by turns with it, so
that a slow machine, or a slow minute of it, is in both.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]

RATIO: Final = "x floor"
DIGITS: Final = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        group: name of the measurement that it is of.
        name: unique in all results.
        unit: of samples and target.
        target: what the median may be at most; None where nothing is asked.
        samples: one a run.
        parts: what the samples are made of or stand beside, each with its unit in its name and
            one value a run.
        note: what a reader must know to read it right.
    """

    group: str
    name: str
    unit: str
    target: float | None
    samples: Sequence[float]
    parts: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    note: str = ""

    def as_json(self) -> Json:
        """Return the figure as it stands in the results; `met` is null without a target."""
        median = round(statistics.median(self.samples), DIGITS)
        return {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "target": self.target,
            "median": median,
            "min": round(min(self.samples), DIGITS),
            "max": round(max(self.samples), DIGITS),
            "met": None if self.target is None else median <= self.target,
            "samples": [round(sample, DIGITS) for sample in self.samples],
            "parts": {
                name: [round(value, DIGITS) for value in values]
                for name, values in self.parts.items()
            },
            "note": self.note,
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }


def against_floor(
    group: str,
    name: str,
    target: float,
    whole: Sequence[float],
    parts: Mapping[str, Sequence[float]],
    *,
    beside: Mapping[str, Sequence[float]] | None = None,
    note: str = "",
) -> Figure:
    """Return the ratio of each run's time to the sum of its parts, which are its floor.

    Args:
        group: name of the measurement.
        name: of the figure.
        target: what the ratio may be at most.
        whole: seconds of each run.
        parts: of the floor: what -> seconds of each run.
        beside: what is worth to be told, and no part of the floor.
        note: for the reader.
    """
    floors = [sum(values) for values in zip(*parts.values(), strict=True)]
    return Figure(
        group=group,
        name=name,
        unit=RATIO,
        target=target,
        samples=[time / floor for time, floor in zip(whole, floors, strict=True)],
        parts={
            "virtual, s": whole,
            "floor, s": floors,
            **{f"{part}, s": values for part, values in parts.items()},
            **(beside or {}),
        },
        note=note,
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least a share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def merge(before: Json, surroundings: Json, figures: Iterable[Json]) -> Json:
    """Return results in which figures of groups that were measured now replace older ones.

    Figures keep the order in which they first came; each has the time of its own measurement.
    """
    fresh = list(figures)
    groups = {figure["group"] for figure in fresh}
    kept = [figure for figure in before.get("figures", []) if figure["group"] not in groups]
    return {**surroundings, "figures": [*kept, *fresh]}


def read(path: pathlib.Path) -> Json:
    """Return the results in a file; empty when there is none."""
    try:
        found: Json = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


def write(path: pathlib.Path, results: Json) -> None:
    """Replace a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(path)
