"""What the lab tells a person who has to act on it."""

import pathlib

from lab import settings


class LabError(Exception):
    """The lab cannot go on; the text says what happened and where to look."""


class ProcessDiedError(LabError):
    """A process of the lab ended on its own; the text ends with its last log lines."""

    def __init__(self, name: str, log: pathlib.Path, reason: str = "ended unexpectedly") -> None:
        super().__init__(f"{name} {reason}; the end of {log}:\n{last_lines(log)}")
        self.name = name
        self.log = log


def last_lines(log: pathlib.Path, count: int = settings.LOG_LINES_IN_ERRORS) -> str:
    """Return the last `count` lines of a log, or a remark when there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 64 * 1024))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return "  (no log was written)"

    return "\n".join(f"  {line[:400]}" for line in text.splitlines()[-count:])
