"""What the node's use cases need of the machine.

Every method blocks and is called in a worker thread, but for finding sockets and reading the
journal, which look at what this node has in memory anyway. An ``OSError`` may escape
from any of them: what it left behind is unknown, and the caller says so.
"""

from __future__ import annotations

import enum
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from csi_liqo.service.node import requests


class PlaceKind(enum.Enum):
    """What is at a path."""

    DIRECTORY = "directory"
    BLOCK_DEVICE = "block device"
    OTHER = "neither a directory nor a block device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Tells one directory, device or socket from every other, whatever path leads to it."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory or device held open, so that nobody exchanges it between look and use.

    ``path`` leads to it from here, ``name`` is what people on the node call it.
    ``device_number`` is a block device's own number, 0 for a directory.
    ``read_only``: it is reached through a mount that allows no writes.
    """

    descriptor: int
    path: str
    name: str
    kind: PlaceKind
    identity: Identity
    device_number: int
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What is mounted at a path.

    ``identity`` is that of the mounted directory or device, ``device_number`` that of
    the block device below a mounted filesystem.
    """

    identity: Identity
    device_number: int
    read_only: bool
    fs_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The mount that shows at a path, as the kernel's table alone tells it apart from others.

    ``mount_id`` is unique while the mount exists; ``root`` is the folder of the filesystem of
    ``device`` that shows.
    """

    mount_id: int
    device: int
    root: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSocket:
    """A driver's own socket; the same path may lead to another one later."""

    path: str
    identity: Identity


@dataclass(slots=True)
class Progress:
    """Of work that takes long, shared by its thread and those who ask.

    ``entries`` were looked at so far; ``stop`` makes it end early.
    """

    entries: int = 0
    stop: bool = False


class Host(Protocol):
    """The machine's mounts and devices."""

    def source(self, path: str) -> AbstractContextManager[Place | None]:
        """Hold what is at a path of the host, None when nothing is there.

        Links are followed inside the host's root and never out of it.
        """

    def staged(self, path: str) -> AbstractContextManager[Place | None]:
        """Hold what is at a path below kubelet's folder, None when nothing is there."""

    def mounted(self, path: str) -> Mounted | None:
        """Return what is mounted exactly at a path below kubelet's folder."""

    def shown(self, path: str) -> Shown | None:
        """Return the mount exactly at a path below kubelet's folder, without touching it."""

    def mounted_elsewhere(self, place: Place, path: str) -> tuple[str, ...]:
        """Return the paths below kubelet's folder, other than this one, that show a place."""

    def ensure_target(self, path: str, kind: PlaceKind) -> None:
        """Make the directory or file a mount needs, as the place's kind wants it.

        Raises:
            errors.PreconditionError: its parent is missing, or something else is there.
        """

    def bind(self, place: Place, path: str, options: tuple[str, ...]) -> None:
        """Show a place, with all that is mounted below it, at a path: at once or not at all."""

    def unmount(self, path: str) -> None:
        """Unmount what is mounted exactly at a path, and what is mounted on that."""

    def ensure_folder(self, path: str) -> None:
        """Make a folder below kubelet's and all above it, as kubelet does before NodeStage."""

    def remove_folder(self, path: str, *, levels: int) -> None:
        """Remove an empty folder below kubelet's and the empty ones above it.

        ``levels`` counts them all. Absent is fine; one that holds something stays.

        Raises:
            errors.OutcomeUnknownError: something is still mounted there.
        """

    def give(self, path: str, group: int, progress: Progress) -> None:
        """Give all that is at a path below kubelet's folder to a group, the root last.

        Nothing to do when the root has the group and its modes. No link is followed, no
        other mount entered.
        """

    def remove_target(self, path: str) -> None:
        """Remove the empty directory or file at a path; absent is fine.

        Raises:
            errors.PreconditionError: a directory that holds files.
        """

    def filesystem_of(self, place: Place) -> str:
        """Return the type of the filesystem on a device, empty only when it is blank.

        Raises:
            errors.PreconditionError: it holds something that is no single filesystem.
        """

    def format(self, place: Place, fs_type: str) -> None:
        """Make a filesystem on a device that nobody uses."""

    def mount(self, place: Place, path: str, fs_type: str, options: tuple[str, ...]) -> None:
        """Mount a device's filesystem, checked before unless it is to be read-only."""

    def usage(self, path: str, kind: PlaceKind) -> requests.Usage:
        """Return how full the volume at a path is."""


class PluginSockets(Protocol):
    """The sockets by which drivers register with kubelet on this node."""

    def registered(self) -> tuple[str, ...]:
        """Return the paths of the registration sockets, the newest last."""

    def resolve(self, endpoint: str) -> PluginSocket:
        """Return a driver's own socket, links followed.

        Raises:
            errors.OutcomeUnknownError: it is no socket below kubelet's folder.
        """


class RealDriverNames(Protocol):
    """Which drivers stand behind the virtual classes of this installation."""

    def read(self) -> tuple[str, ...]:
        """Return their names as far as the controller has told them.

        Raises:
            errors.Error, OSError: they cannot be read.
        """


class JournalFiles(Protocol):
    """Small files that survive a crash whole or not at all."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Replace a file; on return it is on the disk."""

    def remove(self, name: str) -> None:
        """Remove a file; absent is fine."""
