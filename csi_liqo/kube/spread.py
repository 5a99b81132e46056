"""Claims of a provider that grants its namespaces one by one: a watch for each in use.

Which are in use, this cluster's volumes and claims tell. A twin that was never handed over,
or that was abandoned, may be in one of which they tell nothing any more: so each that
could be mapped is looked into once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from csi_liqo.kube import collection, store
from csi_liqo.model import objects
from csi_liqo.service import ports

R = TypeVar("R")

LOOKS_AT_ONCE: Final = 4
"""Few enough to leave the way to the provider to the calls."""

Keep = Callable[[], Coroutine[Any, Any, None]]
"""What keeps a cache up until it is cancelled."""


class SpreadClaims:
    """Implements ports.Objects by one collection a namespace, begun when it is first named."""

    def __init__(
        self,
        begin: Callable[[Keep], None],
        make: Callable[[str], collection.Collection[objects.Claim]],
    ) -> None:
        """``make`` gives a namespace's collection, ``begin`` has it kept up."""
        self._begin = begin
        self._make = make
        self._parts: dict[str, collection.Collection[objects.Claim]] = {}
        self._explored = asyncio.Event()

    async def explore(
        self, namespaces: Iterable[str], holds_twins: Callable[[str], Awaitable[bool]]
    ) -> None:
        """Cover each of these namespaces, too, that ``holds_twins``.

        Raises: what ``holds_twins`` raises; then it is not known which do.
        """
        rest = sorted(set(namespaces) - set(self._parts))

        async def look(namespace: str) -> None:
            if await holds_twins(namespace):
                await self.ready(namespace)

        for first in range(0, len(rest), LOOKS_AT_ONCE):
            await asyncio.gather(*map(look, rest[first : first + LOOKS_AT_ONCE]))
        self._explored.set()

    @property
    def explored(self) -> bool:
        """Whether every namespace that may hold twins is known."""
        return self._explored.is_set()

    async def wait_explored(self, seconds: float) -> None:
        """Give that a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._explored.wait()

    def cover(self, namespace: str) -> collection.Collection[objects.Claim]:
        """Return a namespace's collection; its watch begins if it has none."""
        part = self._parts.get(namespace)
        if part is None:
            part = self._parts[namespace] = self._make(namespace)
            self._begin(part.keep)
        return part

    def stores(self) -> Iterable[store.Store[objects.Claim]]:
        """Return every namespace's store."""
        return tuple(part.store for part in self._parts.values())

    @property
    def synced(self) -> bool:
        return self.explored and all(part.synced for part in self._parts.values())

    @property
    def gaps(self) -> tuple[str, ...]:
        unknown = () if self.explored else ("",)
        return unknown + tuple(name for name, part in self._parts.items() if not part.synced)

    def covers(self, namespace: str) -> bool:
        return self.cover(namespace).synced

    async def ready(self, namespace: str) -> bool:
        if not namespace:
            await self.wait_explored(collection.FIRST_LIST_SECONDS)
            await asyncio.gather(*(self.ready(name) for name in tuple(self._parts)))
            return self.synced
        return await self.cover(namespace).ready(namespace)

    def get(self, namespace: str, name: str) -> objects.Claim | None:
        return self.cover(namespace).get(namespace, name)

    def all(self) -> Iterable[objects.Claim]:
        return tuple(claim for part in self._parts.values() for claim in part.all())

    def select(self, index: str, value: str) -> tuple[objects.Claim, ...]:
        return tuple(c for part in self._parts.values() for c in part.select(index, value))

    async def wait(
        self, namespace: str, name: str, until: Callable[[objects.Claim | None], R | None]
    ) -> R:
        return await self.cover(namespace).wait(namespace, name, until)

    async def read(self, namespace: str, name: str) -> objects.Claim | None:
        return await self.cover(namespace).read(namespace, name)

    async def raw(self, namespace: str, name: str) -> ports.Manifest | None:
        return await self.cover(namespace).raw(namespace, name)

    async def create(self, namespace: str, manifest: ports.Manifest) -> objects.Claim:
        return await self.cover(namespace).create(namespace, manifest)

    async def patch(
        self, namespace: str, name: str, patch: ports.Patch, *, subresource: str = ""
    ) -> objects.Claim:
        part = self.cover(namespace)
        return await part.patch(namespace, name, patch, subresource=subresource)

    async def delete(
        self, namespace: str, name: str, *, uid: str, resource_version: str = ""
    ) -> None:
        part = self.cover(namespace)
        await part.delete(namespace, name, uid=uid, resource_version=resource_version)
