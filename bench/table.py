"""The figures as a table: on a terminal, and in Markdown for bench/README.md."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

Json = dict[str, Any]

BEGIN: Final = "<!-- made from bench/out/results.json: begin -->"
END: Final = "<!-- made from bench/out/results.json: end -->"
_HEAD: Final = ("figure", "median", "min", "max", "target", "unit", "met")
_SECONDS_SUFFIX: Final = ", s"


def show(results: Json, console: Console) -> None:
    """Print the table."""
    table = Table(*_HEAD)
    for figure in results["figures"]:
        color = {True: "green", False: "red", None: ""}[figure["met"]]
        table.add_row(*row(figure), style=color)
    console.print(table)
    console.print(f"[dim]{describe(results)}[/]")


def row(figure: Json) -> tuple[str, ...]:
    """Return what a figure has in the columns of the table."""
    target = figure["target"]
    return (
        figure["name"],
        number(figure["median"]),
        number(figure["min"]),
        number(figure["max"]),
        "" if target is None else f"<= {number(target)}",
        figure["unit"],
        {True: "yes", False: "no", None: ""}[figure["met"]],
    )


def number(value: float) -> str:
    """Write a number with three digits that mean something, whole ones without a point."""
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def describe(results: Json) -> str:
    """Say in one line what the figures were measured on."""
    machine, versions = results["machine"], results["versions"]
    runs = ", ".join(f"{name} {value}" for name, value in results["options"].items())
    return (
        f"{machine['processors']} x {machine['model']}, {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, load {machine['load_at_start']} at the start; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {runs}"
    )


def markdown(results: Json) -> str:
    """Return the table, and below it the seconds that the ratios are made of."""
    lines = [describe(results), "", _line(_HEAD), _line(["---"] * len(_HEAD))]
    lines += [_line(row(figure)) for figure in results["figures"]]
    lines += ["", "What the ratios are made of, medians in seconds:", ""]
    lines += [_line(("figure", "part", "s")), _line(["---"] * 3)]
    for figure in results["figures"]:
        name = figure["name"]
        for part, values in figure["parts"].items():
            if part.endswith(_SECONDS_SUFFIX):
                median = sorted(values)[len(values) // 2]
                lines.append(_line((name, part.removesuffix(_SECONDS_SUFFIX), number(median))))
                name = ""
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def put_into(path: pathlib.Path, results: Json, pictures: Sequence[pathlib.Path] = ()) -> None:
    """Replace the part of a document that is made from the results.

    Args:
        path: of the document.
        results: what it is to show.
        pictures: plots of them, as seen from the document.
    """
    text = path.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    shown = "".join(f"\n![{picture.stem}]({picture})\n" for picture in pictures)
    path.write_text(f"{head}{BEGIN}\n\n{markdown(results)}{shown}\n{END}{tail}")
