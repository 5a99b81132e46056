"""Runs a reconciler: keys in, each brought to its wanted state, failures tried again.

A key is a name, never an event: a reconciler looks at how things are now, so many
changes of one object are one piece of work, and a lost one is made up for.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from csi_liqo.model import errors

logger = logging.getLogger(__name__)

Key = tuple[str, str]
Reconcile = Callable[[Key], Awaitable[float | None]]
"""Brings a key to its wanted state; returns seconds until it wants another look, or None."""

FIRST_DELAY_SECONDS: Final = 0.5
LAST_DELAY_SECONDS: Final = 60.0


class Runner:
    """A queue of distinct keys and a few workers; one key is never worked on twice at once.

    Two looks at one key are ``pause_seconds`` apart, for those that cost more the more
    there is. The first is at once, and what changes meanwhile is looked at after the pause.
    """

    def __init__(
        self, name: str, reconcile: Reconcile, *, workers: int = 4, pause_seconds: float = 0.0
    ) -> None:
        self._name = name
        self._reconcile = reconcile
        self._workers = workers
        self._pause_seconds = pause_seconds
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()  # or in the pause after
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._takes = False

    def add(self, key: Key) -> None:
        """Have a key looked at soon, once, however often it is added until then.

        A runner that does not run takes nothing in: on a replica that waits for its turn,
        keys would only pile up. Whoever starts it tells it of all there is.
        """
        if not self._takes:
            return
        if key in self._working:
            self._again.add(key)
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key not in self._waiting:
            self._waiting.add(key)
            self._queue.put_nowait(key)  # bounded by the number of distinct keys

    def run(self) -> Coroutine[Any, Any, None]:
        """Take keys in from now on, and work until cancelled; may be run again then."""
        self._queue = asyncio.Queue()
        for known in (self._waiting, self._working, self._again):
            known.clear()
        self._failures.clear()
        self._takes = True
        return self._run()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._workers):
                    tasks.create_task(self._work(), name=f"{self._name}-{number}")
        finally:
            self._takes = False
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._waiting.discard(key)
            self._working.add(key)
            delay = await self._attempt(key)
            if self._pause_seconds:
                self._later(key, self._pause_seconds, functools.partial(self._done, key, delay))
            else:
                self._done(key, delay)
            # NB: neither a queue that holds something (asyncio.Queue.get) nor a look that finds
            # nothing to do gives way: the keys of a whole cluster would be one step of the loop,
            # in which no lease is renewed, and whoever leads again begins with all keys again.
            await asyncio.sleep(0)

    def _done(self, key: Key, delay: float | None) -> None:
        self._timers.pop(key, None)
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif delay is not None:
            self._later(key, delay, functools.partial(self.add, key))

    def _later(self, key: Key, seconds: float, function: Callable[[], None]) -> None:
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, function)

    async def _attempt(self, key: Key) -> float | None:
        try:
            delay = await self._reconcile(key)
        except errors.Error as error:
            logger.warning("%s: %s: %s", self._name, "/".join(filter(None, key)), error)
        except Exception:
            logger.exception("%s: %s: a bug", self._name, "/".join(filter(None, key)))
        else:
            self._failures.pop(key, None)
            return delay
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest: float = min(FIRST_DELAY_SECONDS * 2**failures, LAST_DELAY_SECONDS)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret
