"""Runs one coroutine per key at a time, and again when the key changed meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from lab import api, mirror

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

PARALLEL: Final = 32
FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 15.0


class KeyedWork:
    """Level-triggered work: a key names what to look at, never what happened.

    A failure that time can heal is tried again with growing delay, or at the
    key's next change. Any other exception ends `run`, and so the program.
    """

    def __init__(self, reconcile: Callable[[mirror.Key], Awaitable[None]]) -> None:
        self._reconcile = reconcile
        self._changes: dict[mirror.Key, asyncio.Event] = {}
        self._new: asyncio.Queue[mirror.Key] = asyncio.Queue()
        self._slots = asyncio.Semaphore(PARALLEL)

    def add(self, key: mirror.Key) -> None:
        """Have a key looked at."""
        if key in self._changes:
            self._changes[key].set()
            return
        self._changes[key] = asyncio.Event()
        self._new.put_nowait(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                key = await self._new.get()
                tasks.create_task(self._settle(key), name=str(key))

    async def _settle(self, key: mirror.Key) -> None:
        changed = self._changes[key]
        delay = FIRST_DELAY_SECONDS
        settled = False
        while not settled or changed.is_set():
            changed.clear()
            try:
                async with self._slots:
                    await self._reconcile(key)
                settled = True
                delay = FIRST_DELAY_SECONDS
            except api.FAILURES as error:
                settled = False
                logger.info("%s, trying again: %s", key, error)
                await _wait(changed, delay)
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)
        del self._changes[key]


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
