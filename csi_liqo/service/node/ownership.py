"""A pod's fsGroup: whether its volume's files are given to it, and the work of doing so.

kubelet leaves this to a driver with VOLUME_MOUNT_GROUP, which is how each volume
can have its own real driver's policy. A tree of a million files takes longer than
kubelet waits, so the work is a task that outlives the call: the call comes again
and is told how far it is. Killed, it starts anew and passes by what is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Final

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import forwarding, ports

logger = logging.getLogger(__name__)

THREADS: Final = 4
PATIENCE_SECONDS: Final = 60.0
"""How long one call waits; kubelet gives it 120 s (kubernetes v1.37.2, csi_plugin.go:56)."""
_LARGEST_GROUP: Final = 2**32 - 2

_ONCE: Final = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})
_ONE_NODE: Final = frozenset(
    {
        volumes.AccessMode.SINGLE_NODE_WRITER,
        volumes.AccessMode.SINGLE_NODE_SINGLE_WRITER,
        volumes.AccessMode.SINGLE_NODE_MULTI_WRITER,
    }
)


def wanted_group(capability: volumes.VolumeCapability) -> int | None:
    """Return the group a call names, None when it names none.

    Raises:
        errors.InvalidRequestError: it is no number of a group; kubelet sends nothing else.
    """
    given = capability.mount_group
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and int(given) <= _LARGEST_GROUP):
        raise errors.InvalidRequestError(f"volume_mount_group {given!r} is no group's number")
    return int(given)


def is_wanted(
    found: source.Source,
    capability: volumes.VolumeCapability,
    *,
    read_only: bool,
    abilities: forwarding.Abilities | None = None,
) -> bool:
    """Tell whether this driver gives a volume's files to the group, as kubelet would.

    The rule is kubelet's ``supportsFSGroup`` (kubernetes v1.37.2, csi_mounter.go:474-505)
    with the real volume's facts. hostPath and local volumes have the default policy, by
    what the virtual volume says. ``abilities`` are the real driver's, None without one.
    """
    if read_only or (abilities is not None and abilities.mount_group):
        return False
    if found.csi is None:
        return bool(capability.fs_type) and capability.access_mode in _ONE_NODE
    match found.csi.fs_group_policy:
        case source.FsGroupPolicy.NONE:
            return False
        case source.FsGroupPolicy.FILE:
            return True
        case source.FsGroupPolicy.READ_WRITE_ONCE_WITH_FS_TYPE:
            return bool(found.fs_type) and not _ONCE.isdisjoint(found.csi.access_modes)


class Changes:
    """The tasks under way, one a target."""

    def __init__(self, host: ports.Host, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._host = host
        self._patience_seconds = patience_seconds
        self._threads = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="ownership")
        self._tasks: dict[str, tuple[asyncio.Future[None], ports.Progress]] = {}

    async def give(self, volume_id: str, target_path: str, group: int) -> None:
        """Give all that is below a target to a group; return when it is done.

        Raises:
            errors.OperationPendingError: it takes longer and goes on.
            OSError: it cannot be done.
        """
        if target_path not in self._tasks:
            progress = ports.Progress()
            work = functools.partial(self._host.give, target_path, group, progress)
            self._tasks[target_path] = (self._start(work), progress)
        task, progress = self._tasks[target_path]
        done, _ = await asyncio.wait({task}, timeout=self._patience_seconds)
        if not done:
            raise errors.OperationPendingError(
                f"giving the files of volume {volume_id} to group {group} goes on, "
                f"{progress.entries} looked at so far"
            )
        self._tasks.pop(target_path, None)
        task.result()

    async def stop(self, target_path: str) -> None:
        """End the task of a target and wait for its end: it holds the target open."""
        task, progress = self._tasks.get(target_path, (None, None))
        if task is None or progress is None:
            return
        progress.stop = True
        await asyncio.wait({task})
        self._tasks.pop(target_path, None)
        with contextlib.suppress(OSError, errors.Error):  # of what nobody wants any more
            task.result()

    def close(self) -> None:
        """Tell all tasks to end."""
        for _, progress in self._tasks.values():
            progress.stop = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, work: Callable[[], None]) -> asyncio.Future[None]:
        task = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # Marks a failure as seen when no call comes for it any more.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task
