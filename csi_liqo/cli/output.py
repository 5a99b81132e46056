"""Printing for people and for programs: tables, JSON, YAML.

A table on a terminal uses its width and colours; anywhere else each row is one line,
whatever its length, for the next program in the pipe.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from csi_liqo.cli import options

if TYPE_CHECKING:
    from rich import table

WIDE_ENOUGH = 4096
"""Columns of a table that nobody looks at on a screen."""
NOTHING = "-"

_COLOURS = {
    "yes": "green",
    "ready": "green",
    "bound": "green",
    "ok": "green",
    "no": "red",
    "error": "red",
    "lost": "red",
    "warning": "yellow",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; ``wide`` ones are shown only on request."""

    title: str
    wide: bool = False


def forge_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool
) -> table.Table:
    """Return a table without lines, as kubectl prints them."""
    from rich import table, text

    shown = [number for number, column in enumerate(columns) if wide or not column.wide]
    made = table.Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for number in shown:
        made.add_column(columns[number].title.upper(), overflow="fold")
    for row in rows:
        cells = [row[number] or NOTHING for number in shown]
        made.add_row(*(text.Text(cell, style=_COLOURS.get(cell.lower(), "")) for cell in cells))
    return made


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool = False
) -> None:
    """Print a table to standard output."""
    from rich import console

    made = forge_table(columns, rows, wide=wide)
    if sys.stdout.isatty():
        console.Console(highlight=False).print(made)
        return
    plain = console.Console(width=WIDE_ENOUGH, color_system=None, highlight=False)
    with plain.capture() as captured:
        plain.print(made)
    for line in captured.get().splitlines():
        print(line.rstrip())


def print_document(document: Any, form: options.Format) -> None:
    """Print plain values as JSON or YAML."""
    if form is options.Format.JSON:
        print(json.dumps(document, indent=2))
        return
    import yaml

    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")


def is_document(form: options.Format) -> bool:
    """Whether a program is going to read the output."""
    return form in (options.Format.JSON, options.Format.YAML)


def time_text(seconds: float | None) -> str:
    """Return a time since 1970 as text in UTC, empty for None."""
    if seconds is None:
        return ""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def duration_text(seconds: float) -> str:
    """Return a time span as kubectl writes an age: its one or two largest units."""
    rest = int(seconds)
    if rest < 0:
        return f"-{duration_text(-seconds)}"
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
