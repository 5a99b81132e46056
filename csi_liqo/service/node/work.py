"""Blocking work in bounded threads, one piece a volume at a time.

A call that its caller gives up ends at once, its thread does not: the volume
stays claimed until the thread is done, so that the repeated call is told to
come back instead of working beside it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
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
        self._busy: set[str] = set()

    async def run(self, volume_id: str, function: Callable[[], T]) -> T:
        """Return the function's result.

        Raises:
            errors.OperationPendingError: earlier work on this volume still runs.
        """
        if volume_id in self._busy:
            raise errors.OperationPendingError(
                f"an operation on volume {volume_id} is still running on this node"
            )
        self._busy.add(volume_id)
        context = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(self._threads, context.run, function)

        def finished(done: asyncio.Future[Any]) -> None:
            self._busy.discard(volume_id)
            if not done.cancelled():
                done.exception()  # marks it as seen when its caller is gone

        running.add_done_callback(finished)
        return await asyncio.shield(running)

    def close(self) -> None:
        """Take no more work and leave; a thread that hangs in the kernel is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
