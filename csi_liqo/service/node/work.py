"""Blocking work in bounded threads, one operation a volume at a time.

A call that its caller gives up ends at once, its thread does not: the volume
stays claimed until the thread is done, so that the repeated call is told to
come back instead of working beside it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

from csi_liqo.model import errors

T = TypeVar("T")


class Work:
    """Runs blocking functions for volumes.

    With all threads busy, on a disk that hangs say, further volumes wait for one
    until their callers' time is over.
    """

    def __init__(self, *, name: str, threads: int) -> None:
        self._threads = futures.ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._holders: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def claim(self, volume_id: str) -> Iterator[Claim]:
        """Hold a volume for one operation of several steps.

        It stays held after the block until the last thread that it started has ended.

        Raises:
            errors.OperationPendingError: an earlier operation on this volume still runs.
        """
        if self._holders[volume_id]:
            raise errors.OperationPendingError(
                f"an operation on volume {volume_id} is still running on this node"
            )
        self.hold(volume_id)
        try:
            yield Claim(self, volume_id)
        finally:
            self.release(volume_id)

    async def run(self, volume_id: str, function: Callable[[], T]) -> T:
        """Return the function's result.

        Raises:
            errors.OperationPendingError: as ``claim``.
        """
        with self.claim(volume_id) as claim:
            return await claim.run(function)

    def start(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Begin in a thread, in the caller's context; a claim's business."""
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(self._threads, context.run, function)

    def hold(self, volume_id: str) -> None:
        """Count one more holder of a volume."""
        self._holders[volume_id] += 1

    def release(self, volume_id: str) -> None:
        """Count one holder less."""
        self._holders[volume_id] -= 1
        if not self._holders[volume_id]:
            del self._holders[volume_id]

    def close(self) -> None:
        """Take no more work and leave; a thread that hangs in the kernel is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Claim:
    """A volume held for an operation, which may run blocking functions one after the other."""

    def __init__(self, pool: Work, volume_id: str) -> None:
        self._pool = pool
        self._volume_id = volume_id

    async def run(self, function: Callable[[], T]) -> T:
        """Return the function's result."""
        running = self._pool.start(function)
        self._pool.hold(self._volume_id)

        def finished(done: asyncio.Future[Any]) -> None:
            self._pool.release(self._volume_id)
            if not done.cancelled():
                done.exception()  # marks it as seen when its caller is gone

        running.add_done_callback(finished)
        return await asyncio.shield(running)
