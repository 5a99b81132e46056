"""Printing for people and for programs: tables, JSON, YAML.

A table on a terminal has colours, and folds its sentences to the width of it; names are
never folded, because people copy them. Anywhere else each row is one line, whatever its
length, for the next program in the pipe.
"""

from __future__ import annotations

import datetime
import json
import re
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
WORDS = 24
"""Columns that a sentence has at least."""

_PLAIN = "\x1b[0m"
_BLANKS = re.compile(r"( |\x1b\[[0-9;]*m)+$")
"""The end of a line that nobody sees, and that a narrow terminal makes another line of."""
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
    """A column of a table; ``wide`` ones are shown only on request, ``prose`` is sentences."""

    title: str
    wide: bool = False
    prose: bool = False


def forge_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool, cut: bool = False
) -> table.Table:
    """Return a table without lines, as kubectl prints them.

    With ``cut`` a name that finds no room ends in an ellipsis: for what must stay in its place
    on a screen.
    """
    from rich import table, text

    shown = [number for number, column in enumerate(columns) if wide or not column.wide]
    made = table.Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for number in shown:
        column = columns[number]
        made.add_column(
            column.title.upper(),
            no_wrap=not column.prose,
            overflow="ellipsis" if cut else "fold",
        )
    for row in rows:
        cells = [row[number] or NOTHING for number in shown]
        made.add_row(*(text.Text(cell, style=_COLOURS.get(cell.lower(), "")) for cell in cells))
    return made


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool = False
) -> None:
    """Print a table to standard output."""
    from rich import console

    cells = list(rows)
    made = forge_table(columns, cells, wide=wide)
    if sys.stdout.isatty():
        screen = console.Console(highlight=False)
        # A line that has no room is the terminal's to fold, as it is with kubectl.
        screen.width = max(screen.width, _least_width(columns, cells, wide=wide))
    else:
        screen = console.Console(width=WIDE_ENOUGH, color_system=None, highlight=False)
    with screen.capture() as captured:
        screen.print(made)
    for line in captured.get().splitlines():
        print(_BLANKS.sub(_PLAIN if _PLAIN in line else "", line))


def _least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, wide: bool) -> int:
    """Return how wide a table must be for all names, and a few words of each sentence."""
    total = 0
    for number, column in enumerate(columns):
        if wide or not column.wide:
            longest = max((len(row[number]) for row in rows), default=0)
            longest = max(longest, len(column.title))
            total += (min(longest, WORDS) if column.prose else longest) + len("   ")
    return total


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
