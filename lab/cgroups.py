"""The control groups of one instance, in version 1 and version 2 hierarchies.

They serve two ends. kubelet wants a `cgroupRoot` of its own a node. And
everything an instance starts, down to the last container, sits in a group with
the instance's name, so that it can be found and ended even when every record of
it is lost.
"""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
from collections.abc import Iterator, Sequence
from typing import Final

from lab import errors, settings

_POLL_SECONDS: Final = 0.05
# What kubelet and runc want enabled below the root of a version 2 hierarchy.
_CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")


@dataclasses.dataclass(frozen=True, slots=True)
class Hierarchies:
    """The cgroup file systems of this machine.

    Attributes:
        v1: mount points of version 1 controllers; empty on a version 2 machine.
        v2: mount point of version 2, if any (beside v1 it has no controllers).
    """

    v1: tuple[pathlib.Path, ...]
    v2: pathlib.Path | None

    @property
    def all(self) -> tuple[pathlib.Path, ...]:
        """Every hierarchy in which the instance may have groups."""
        return self.v1 if self.v2 is None else (*self.v1, self.v2)

    @property
    def tracking(self) -> pathlib.Path:
        """The one hierarchy in which daemons are placed."""
        if not self.v1:
            assert self.v2 is not None
            return self.v2

        return next((root for root in self.v1 if root.name == "pids"), self.v1[0])


def hierarchies() -> Hierarchies:
    """Read which cgroup file systems are mounted.

    Raises:
        LabError: none is.
    """
    v1: list[pathlib.Path] = []
    v2: pathlib.Path | None = None
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup":
            v1.append(pathlib.Path(point))
        elif kind == "cgroup2":
            v2 = v2 or pathlib.Path(point)
    if not v1 and v2 is None:
        raise errors.LabError("no cgroup file system is mounted; nodes need one")

    return Hierarchies(tuple(v1), v2)


class Group:
    """A control group by its path, in every hierarchy at once."""

    def __init__(self, path: str) -> None:
        """Name a group, such as `csi-liqo-lab-1a2b3c/rome-1`; nothing is made yet."""
        self.path = path
        self._hierarchies = hierarchies()

    def child(self, name: str) -> "Group":
        """Return the group of that name below this one."""
        return Group(f"{self.path}/{name}")

    def ensure_for_kubelet(self) -> None:
        """Have the group in every controller, fit to be kubelet's `cgroupRoot`."""
        for root in self._hierarchies.v1:
            _make_v1(root, self.path)
        if self._hierarchies.v2 is not None:
            _make_v2(self._hierarchies.v2, self.path, delegate=not self._hierarchies.v1)

    @property
    def daemons_file(self) -> pathlib.Path:
        """The file by which a daemon joins the group."""
        return self._hierarchies.tracking / self.path / "cgroup.procs"

    def ensure_for_daemons(self) -> None:
        """Have the group where daemons are tracked."""
        if self._hierarchies.v1:
            _make_v1(self._hierarchies.tracking, self.path)
        else:
            self.daemons_file.parent.mkdir(parents=True, exist_ok=True)

    def processes(self) -> set[int]:
        """Return the ids of all processes in the group and below it."""
        return {pid for folder in self._folders() for pid in _read_processes(folder)}

    async def kill(self) -> None:
        """Kill every process in the group and below it, until none is left.

        Raises:
            LabError: some resist; the text names them.
        """
        try:
            async with asyncio.timeout(settings.STOP_TIMEOUT_SECONDS):
                while found := self.processes():
                    self._thaw()
                    for pid in found:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            left = sorted(self.processes())
            raise errors.LabError(f"processes {left} of {self.path} do not end") from None

    async def remove(self) -> None:
        """Remove the group and all below it; there must be no process in it any more.

        Raises:
            LabError: the kernel keeps one of them.
        """
        try:
            async with asyncio.timeout(settings.STOP_TIMEOUT_SECONDS):
                while folders := self._folders():
                    for folder in folders:
                        with contextlib.suppress(OSError):  # still ending, or gone: looked at again
                            folder.rmdir()
                    await asyncio.sleep(_POLL_SECONDS if self._folders() else 0)
        except TimeoutError:
            raise errors.LabError(f"control group {self._folders()[0]} cannot be removed") from None

    def _folders(self) -> Sequence[pathlib.Path]:
        """Deepest first, so that removing them in this order works."""
        return [folder for root in self._hierarchies.all for folder in _walk_up(root / self.path)]

    def _thaw(self) -> None:
        # NB: a process frozen by version 1's freezer does not even die.
        for folder in self._folders():
            state = folder / "freezer.state"
            with contextlib.suppress(OSError):
                if state.exists():
                    state.write_text("THAWED")


def _walk_up(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for name, _, _ in os.walk(folder, topdown=False):
        yield pathlib.Path(name)


def _read_processes(folder: pathlib.Path) -> list[int]:
    with contextlib.suppress(OSError):  # removed meanwhile
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    return []


def _make_v1(root: pathlib.Path, path: str) -> None:
    folder = root
    for part in pathlib.PurePath(path).parts:
        parent, folder = folder, folder / part
        folder.mkdir(exist_ok=True)
        # NB: in a fresh cpuset these are empty, and no process can join it.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (folder / setting).exists() and not (folder / setting).read_text().strip():
                (folder / setting).write_text((parent / setting).read_text())


def _make_v2(root: pathlib.Path, path: str, *, delegate: bool) -> None:
    folder = root
    for part in pathlib.PurePath(path).parts:
        if delegate:
            _enable_controllers(folder)
        folder = folder / part
        folder.mkdir(exist_ok=True)


def _enable_controllers(folder: pathlib.Path) -> None:
    offered = (folder / "cgroup.controllers").read_text().split()
    enabled = (folder / "cgroup.subtree_control").read_text().split()
    missing = [name for name in _CONTROLLERS if name in offered and name not in enabled]
    if not missing:
        return

    try:
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in missing))
    except OSError as error:
        raise errors.LabError(
            f"cannot enable {', '.join(missing)} below {folder} ({error}); in a container, move"
            " its processes out of the root group first, or run with the host's cgroup namespace"
        ) from error
