"""What a check finds, and how bad it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """How bad a finding is; the exit code of the command is 1 from ``ERROR`` on."""

    OK = "ok"
    UNSEEN = "unseen"
    """It could not be looked at, for want of a right."""
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing; ``remedy`` is what to do about it, empty when all is well."""

    level: Level
    check: str
    message: str
    remedy: str = ""
