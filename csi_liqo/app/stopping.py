"""Running a role until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable


@contextlib.asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that is set by SIGTERM or SIGINT for the time of the block."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    kinds = (signal.SIGTERM, signal.SIGINT)
    for kind in kinds:
        loop.add_signal_handler(kind, stop.set)
    try:
        yield stop
    finally:
        for kind in kinds:
            loop.remove_signal_handler(kind)


async def run_until(stop: asyncio.Event, running: Awaitable[None]) -> None:
    """Run something until ``stop`` is set; what it raises before is raised here."""
    task = asyncio.ensure_future(running)
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        stopping.cancel()
        task.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)
