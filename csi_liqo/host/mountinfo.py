"""What is mounted, as the kernel tells it (proc(5), /proc/pid/mountinfo)."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_PATH: Final = pathlib.Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")
_MAY_BE_ESCAPED: Final = re.compile(r"[^-./:=@_~0-9A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount. ``root`` is the folder of its filesystem that shows at ``point``."""

    id: int
    parent: int
    device: int
    root: str
    point: str
    options: frozenset[str]
    fs_type: str


def read() -> tuple[Mount, ...]:
    """Return this process's mounts, oldest first."""
    return parse(_table())


def read_at(point: str) -> tuple[Mount, ...]:
    """Return this process's mounts exactly at a path, the one that shows last."""
    return parse_at(_table(), point)


def _table() -> bytes:
    """Return the kernel's table as it was at one moment.

    The kernel writes the table in pieces, between which it may change, so it
    is read until two readings are the same (as kubelet does, mount-utils
    ``ConsistentRead``); a busy node's last reading is taken after a few.
    """
    before = _PATH.read_bytes()
    for _ in range(4):
        now = _PATH.read_bytes()
        if now == before:
            break
        before = now
    return before


def parse(table: bytes) -> tuple[Mount, ...]:
    """Return the mounts of a table's text."""
    return tuple(_mount(line) for line in table.splitlines() if line)


def parse_at(table: bytes, point: str) -> tuple[Mount, ...]:
    """Return the mounts exactly at a path; of hundreds, no more are read than may be there."""
    lines = table.splitlines()
    if not _MAY_BE_ESCAPED.search(point):
        field = b" %b " % point.encode()
        lines = [line for line in lines if field in line]
    return at(map(_mount, lines), point)


def of_descriptor(descriptor: int) -> int:
    """Return the id of the mount through which a file was opened."""
    info = pathlib.Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return int(info.partition("mnt_id:")[2].split()[0])


def at(mounts: Iterable[Mount], point: str) -> tuple[Mount, ...]:
    """Return the mounts exactly at a path, the one that shows last."""
    return tuple(mount for mount in mounts if mount.point == point)


def with_descendants(mounts: Iterable[Mount], point: str) -> tuple[Mount, ...]:
    """Return the mounts at a path and all that hang on these, deepest first.

    Not simply all below the path: where nothing is mounted at the path itself,
    what is mounted below belongs to somebody else.
    """
    known = tuple(mounts)
    layers = [list(at(known, point))]
    while layers[-1]:
        parents = {mount.id for mount in layers[-1]}
        layers.append([mount for mount in known if mount.parent in parents])
    found: dict[int, Mount] = {}
    for layer in layers:
        for mount in layer:
            found.pop(mount.id, None)  # a stacked mount is both at the path and on it
            found[mount.id] = mount
    return tuple(reversed(found.values()))


def _mount(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    number, parent, device, root, point, options = before.split(b" ")[:6]
    major, minor = device.split(b":")
    return Mount(
        id=int(number),
        parent=int(parent),
        device=os.makedev(int(major), int(minor)),
        root=_unescape(root),
        point=_unescape(point),
        options=frozenset(options.decode().split(",")),
        fs_type=after.split(b" ")[0].decode(),
    )


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), field))
