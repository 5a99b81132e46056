"""Plots of the results, made from nothing but their JSON."""

from __future__ import annotations

import pathlib
import re
import statistics
from collections.abc import Iterable
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot

Json = dict[str, Any]

_RATIO: Final = "x floor"
_OURS, _FLOOR, _TARGET = "#1f77b4", "#bbbbbb", "#d62728"


def draw(results: Json, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw what the results have figures for; return the files."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, plot in (
        ("floors.png", _floors),
        ("targets.png", _targets),
        ("controller.png", _controller),
    ):
        figure = plot(results["figures"])
        if figure is not None:
            path = folder / name
            figure.savefig(path, dpi=110, bbox_inches="tight")
            pyplot.close(figure)
            made.append(path)
    return made


def _floors(found: Iterable[Json]) -> Any:
    """Draw the seconds of what is compared with a floor: its parts stacked, ours beside."""
    compared = [figure for figure in found if figure["unit"] == _RATIO]
    if not compared:
        return None
    drawing, axes = pyplot.subplots(figsize=(10, 0.7 * len(compared) + 1.2))
    for row, figure in enumerate(compared):
        parts = {name: statistics.median(values) for name, values in figure["parts"].items()}
        ours, floor = parts["virtual, s"], parts["floor, s"]
        axes.barh(row - 0.2, ours / floor, height=0.36, color=_OURS)
        axes.barh(row + 0.2, 1, height=0.36, color=_FLOOR)
        axes.plot([figure["target"]] * 2, [row - 0.45, row + 0.45], color=_TARGET)
        axes.text(ours / floor, row - 0.2, f" {ours:.3g} s", va="center")
        axes.text(1, row + 0.2, f" {floor:.3g} s", va="center")
    axes.set_yticks(range(len(compared)), [figure["name"] for figure in compared])
    axes.invert_yaxis()
    axes.set_xlabel("times the floor (grey: the floor, red: the target)")
    return drawing


def _targets(found: Iterable[Json]) -> Any:
    """Draw how far each median is from its target."""
    judged = [figure for figure in found if figure["target"]]
    if not judged:
        return None
    drawing, axes = pyplot.subplots(figsize=(10, 0.32 * len(judged) + 1.2))
    shares = [100 * figure["median"] / figure["target"] for figure in judged]
    colors = ["#2ca02c" if figure["met"] else _TARGET for figure in judged]
    axes.barh(range(len(judged)), shares, color=colors)
    axes.axvline(100, color="black", linewidth=1)
    axes.set_yticks(range(len(judged)), [figure["name"] for figure in judged], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=min(0, *shares), right=max(120, min(300, max(shares) * 1.05)))
    axes.set_xlabel("median, % of the target")
    return drawing


def _controller(found: Iterable[Json]) -> Any:
    """Draw the controller's memory over the number of volumes."""
    sized = {}
    for figure in found:
        named = re.fullmatch(r"controller over (\d+) volumes: resident", figure["name"])
        if named:
            sized[int(named[1])] = figure
    if len(sized) < 2:
        return None
    drawing, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(list(sized), [figure["median"] for figure in sized.values()], "o-", color=_OURS)
    for size, figure in sized.items():
        if figure["target"] is not None:
            axes.plot(size, figure["target"], "v", color=_TARGET)
    axes.set_xlabel("virtual volumes in three clusters")
    axes.set_ylabel("resident memory, MiB (red: the target)")
    axes.set_ylim(bottom=0)
    return drawing
