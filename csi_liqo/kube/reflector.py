"""Keeps a store equal to what an API server holds: list once, then watch.

The rules are client-go's: list in pages, watch from the list's version with
bookmarks, end each watch after a random time so that a fleet does not reconnect
at once, list anew when the server no longer has our version (410). A watch cut
silently shows only by its silence: the server sends a bookmark each minute, so
ninety seconds without a byte is a dead connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from csi_liqo.kube import answers, api, backoff, resources, store
from csi_liqo.model import errors, objects

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=objects.Object)

PAGE_SIZE: Final = 500
SILENCE_SECONDS: Final = 90.0
FIRST_DELAY_SECONDS: Final = 0.2
LAST_DELAY_SECONDS: Final = 30.0
LASTING_SECONDS: Final = 5.0
"""A watch that was alive for so long is none that fails over and over."""
EARLY_SECONDS: Final = 10.0
"""A watch that ends so long before its time was not ended by the clock."""


class _ListMetadata(objects.Struct, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(objects.Struct, Generic[T], frozen=True):
    metadata: _ListMetadata
    items: tuple[T, ...] = ()


class _Frame(objects.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _ErrorStatus(objects.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _ExpiredError(Exception):
    """The server no longer has the version to go on from."""


class Reflector(Generic[T]):
    """Fills one store from one collection until cancelled."""

    def __init__(
        self,
        server: api.Api,
        resource: resources.Resource[T],
        target: store.Store[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        on_failure: Callable[[errors.ApiError | None], None] = lambda _: None,
    ) -> None:
        """Watch all objects, or those of a namespace or selector.

        ``on_failure`` hears each failure, and None once all is well again.
        """
        self._server = server
        self._target = target
        self._path = resource.path(namespace)
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._selectors = {key: value for key, value in selectors.items() if value}
        self._on_failure = on_failure
        self._object = msgspec.json.Decoder(resource.kind)
        self._page: msgspec.json.Decoder[_Page[T]] = msgspec.json.Decoder(_Page[resource.kind])  # type: ignore[name-defined]  # a type only known at run time
        self._frame = msgspec.json.Decoder(_Frame)
        self._version = ""
        self._opened_at = math.inf

    async def run(self) -> None:
        """Keep the store up, from a list on; ends only by being cancelled."""
        self._version = ""
        delays = backoff.Backoff(FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS)
        loop = asyncio.get_running_loop()
        while True:
            self._opened_at = math.inf
            ended = False
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                ended = True  # in good order: go on from the same version
            except _ExpiredError:
                self._version = ""
            except msgspec.DecodeError as error:
                # Half a list would read as "the others do not exist": better none.
                self._target.set_synced(False)
                self._version = ""
                logger.error("%s has an object this version cannot read: %s", self._path, error)
            except errors.ApiError as error:
                self._target.set_synced(False)
                self._on_failure(error)
                logger.debug("watch of %s: %s", self._path, error)
                if not isinstance(error, errors.ApiUnavailableError):
                    self._version = ""
            if loop.time() - self._opened_at > LASTING_SECONDS:
                delays.reset()
                if ended:
                    continue
            await asyncio.sleep(delays.next_seconds())

    async def _list(self) -> None:
        things: list[T] = []
        token = ""
        while True:
            query = {**self._selectors, "limit": str(PAGE_SIZE)}
            if token:
                query["continue"] = token
            page = self._page.decode(await self._server.request("GET", self._path, query=query))
            things += page.items
            token = page.metadata.continue_
            if not token:
                break
        self._target.replace(things)
        self._version = page.metadata.resource_version

    async def _watch(self) -> None:
        seconds = random.randint(240, 480)  # noqa: S311  # spread, no secret
        query = {
            **self._selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async with self._server.stream(self._path, query, silence_seconds=SILENCE_SECONDS) as body:
            self._opened_at = asyncio.get_running_loop().time()
            if not self._target.synced:  # no news from a watch that goes on after its time was up
                self._target.set_synced(True)
                self._on_failure(None)
            rest = b""
            try:
                # NB: a frame may be longer than the stream's limit for readline().
                async for chunk in body.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in filter(None, lines):
                        self._take(line)
            except (ValueError, *answers.CONNECTION_ERRORS) as error:
                raise errors.ApiUnavailableError(
                    f"watch of {self._path} broke: {answers.reason(error)}"
                ) from None
            if asyncio.get_running_loop().time() - self._opened_at < seconds - EARLY_SECONDS:
                # An API server that is stopped says goodbye: another may be there next.
                early = errors.ApiUnavailableError(f"watch of {self._path} was ended early")
                self._server.on_break(early)

    def _take(self, line: bytes) -> None:
        frame = self._frame.decode(line)
        if frame.type == "ERROR":
            status = msgspec.json.decode(frame.object, type=_ErrorStatus)
            if status.code == 410:
                raise _ExpiredError
            raise errors.ApiUnavailableError(f"watch of {self._path}: {status.message}")
        thing = self._object.decode(frame.object)
        self._version = thing.metadata.resource_version
        match frame.type:
            case "ADDED" | "MODIFIED":
                self._target.put(thing)
            case "DELETED":
                self._target.remove(thing.namespace, thing.name)
