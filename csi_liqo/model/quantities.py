"""Kubernetes quantities as whole bytes."""

from __future__ import annotations

import decimal
import re
from typing import Final

_SUFFIXES: Final = {
    "": 1,
    "n": decimal.Decimal("1e-9"),
    "u": decimal.Decimal("1e-6"),
    "m": decimal.Decimal("1e-3"),
    **{suffix: 1000**power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": 1024**power for power, suffix in enumerate("KMGTPE", start=1)},
}
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkKMGTPE]i?|)")


def to_bytes(quantity: str) -> int:
    """Return a quantity in bytes, rounded up, as Kubernetes does.

    Raises:
        ValueError: the text is no quantity.
    """
    match = _QUANTITY.fullmatch(quantity)
    if match is None or match.group(2) not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is no quantity")
    try:
        exact = decimal.Decimal(match.group(1)) * _SUFFIXES[match.group(2)]
    except decimal.InvalidOperation as error:
        raise ValueError(f"{quantity!r} is no quantity") from error
    return int(exact.to_integral_value(rounding=decimal.ROUND_CEILING))


def to_text(size_bytes: int) -> str:
    """Return whole bytes as a quantity, with the largest binary suffix that is exact."""
    for power, suffix in ((6, "Ei"), (5, "Pi"), (4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size_bytes and size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{suffix}"
    return str(size_bytes)
