"""What the kernel says of a process: memory and processor time."""

from __future__ import annotations

import dataclasses
import os
import pathlib

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB; anonymous is what no file could give back."""

    resident_mib: float
    anonymous_mib: float


def memory(pid: int) -> Memory:
    """Return what a process has in memory now."""
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    return Memory(int(fields["VmRSS"][0]) / 1024, int(fields["RssAnon"][0]) / 1024)


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in user and kernel mode."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    # NB: the second field is the program's name in parentheses, and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
