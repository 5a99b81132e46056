"""A local copy of a list of objects, kept by list and watch.

The programs of the lab react to changes and never poll. A mirror survives the
death of its API server: it lists again, works out what vanished meanwhile, and
reports each difference once, as it would have reported the event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from lab import api

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 90
FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 5.0


class Key(NamedTuple):
    """What names an object in its collection; the namespace of a cluster's object is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(item: api.Json) -> Key:
    """Return the key under which a mirror holds an object."""
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


class Mirror:
    """The objects at one path, as last seen.

    `changed` is called, in the event loop, with every object that came, changed
    or went; it looks into `objects` to tell which.
    """

    def __init__(
        self,
        server: api.Api,
        path: str,
        *,
        changed: Callable[[api.Json], None],
        selectors: Mapping[str, str] | None = None,
    ) -> None:
        self.objects: dict[Key, api.Json] = {}
        self.synced = asyncio.Event()
        self._server = server
        self._path = path
        self._selectors = dict(selectors or {})
        self._changed = changed

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                version = await self._list()
                delay = FIRST_DELAY_SECONDS
                while True:
                    version = await self._watch(version)
            except api.FAILURES as error:
                # Also the way of 410 Gone: the history is lost, a list replaces it.
                logger.info("watch of %s broke, listing again: %s", self._path, error)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)

    async def _list(self) -> str:
        answer = await self._server.get(self._path, self._selectors)
        found = {key_of(item): item for item in answer.get("items") or []}
        before, self.objects = self.objects, found
        self.synced.set()
        for key, item in before.items():
            if key not in found:
                self._changed(item)
        for item in found.values():
            self._changed(item)
        return str(answer["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        params = {
            **self._selectors,
            "resourceVersion": version,
            # Spread, so that the watches of many do not return at the same moment.
            "timeoutSeconds": str(random.randint(240, 480)),
        }
        events = self._server.watch(self._path, params, silence_seconds=SILENCE_SECONDS)
        async with contextlib.aclosing(events):
            async for event in events:
                version = self._take(event)
        return version

    def _take(self, event: api.Json) -> str:
        item = event["object"]
        if event["type"] == "ERROR":
            raise api.ApiError(
                item.get("code", 500), item.get("reason", ""), item.get("message", "")
            )
        if event["type"] == "DELETED":
            self.objects.pop(key_of(item), None)
        elif event["type"] != "BOOKMARK":
            self.objects[key_of(item)] = item
        if event["type"] != "BOOKMARK":
            self._changed(item)
        return str(item["metadata"]["resourceVersion"])


async def wait_until(
    server: api.Api,
    collection: str,
    name: str,
    condition: Callable[[api.Json | None], bool],
    *,
    timeout_seconds: float = 30,
) -> api.Json | None:
    """Watch one object until it is as described; None stands for its absence.

    Raises:
        TimeoutError: it is not in time; the text has the object as last seen.
    """
    changed = asyncio.Event()
    seen = Mirror(
        server,
        collection,
        selectors={"fieldSelector": f"metadata.name={name}"},
        changed=lambda _: changed.set(),
    )

    def current() -> api.Json | None:
        return next(iter(seen.objects.values()), None)

    watching = asyncio.create_task(seen.run())
    try:
        async with asyncio.timeout(timeout_seconds):
            await seen.synced.wait()
            while not condition(current()):
                await changed.wait()
                changed.clear()
        return current()
    except TimeoutError as error:
        raise TimeoutError(f"{collection}/{name} is still {current()}") from error
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
