"""One kind of object in one cluster: the cache, and the writes that go past it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from csi_liqo.kube import api, reflector, resources, store
from csi_liqo.model import errors, objects
from csi_liqo.service import ports

T = TypeVar("T", bound=objects.Object)
R = TypeVar("R")

FIRST_LIST_SECONDS: Final = 8.0
"""How long a new watch, or one of hundreds that broke at once, may take to be there."""
REFUSED_SECONDS: Final = 2.0
"""How long one is waited for that was refused: it may have been no more than a moment's."""


class Collection(Generic[T]):
    """Implements ports.Objects over one store and one API server.

    Watches and calls go through separate connections: a pool has a limit, and
    hundreds of watches must not starve the writes.
    """

    def __init__(
        self,
        calls: api.Api,
        watches: api.Api,
        resource: resources.Resource[T],
        *,
        indexes: Mapping[str, store.Index[T]] | None = None,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        on_failure: Callable[[errors.ApiError | None], None] = lambda _: None,
    ) -> None:
        self._calls = calls
        self._resource = resource
        self._namespace = namespace
        self._decoder = msgspec.json.Decoder(resource.kind)
        self.store: store.Store[T] = store.Store(indexes)
        self._reflector = reflector.Reflector(
            watches,
            resource,
            self.store,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            on_failure=self._fared,
        )
        self._on_failure = on_failure
        self._refused = asyncio.Event()
        """Set while the last answer was that this may not be read."""

    def _fared(self, failure: errors.ApiError | None) -> None:
        if isinstance(failure, errors.ApiForbiddenError):
            self._refused.set()
        else:
            self._refused.clear()
        self._on_failure(failure)

    async def keep(self) -> None:
        """Keep the cache up; ends only by being cancelled."""
        await self._reflector.run()

    @property
    def synced(self) -> bool:
        return self.store.synced

    def covers(self, namespace: str) -> bool:
        return self.store.synced

    @property
    def gaps(self) -> tuple[str, ...]:
        return () if self.store.synced else (self._namespace,)

    async def ready(self, namespace: str) -> bool:
        if not self.store.synced:
            synced = asyncio.ensure_future(self.store.wait_synced())
            refused = asyncio.ensure_future(self._refused.wait())
            both = (synced, refused)
            try:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait(both, timeout=FIRST_LIST_SECONDS, return_when=first)
                if refused.done():
                    await asyncio.wait([synced], timeout=REFUSED_SECONDS)
            finally:
                for one in both:
                    one.cancel()
        return self.store.synced

    def get(self, namespace: str, name: str) -> T | None:
        return self.store.get(namespace, name)

    def all(self) -> Iterable[T]:
        return self.store.all()

    def select(self, index: str, value: str) -> tuple[T, ...]:
        return self.store.select(index, value)

    async def wait(self, namespace: str, name: str, until: Callable[[T | None], R | None]) -> R:
        return await self.store.wait(namespace, name, until)

    async def read(self, namespace: str, name: str) -> T | None:
        try:
            answer = await self._calls.request("GET", self._resource.path(namespace, name))
        except errors.ApiNotFoundError:
            return None
        return self._decoder.decode(answer)

    async def raw(self, namespace: str, name: str) -> ports.Manifest | None:
        try:
            answer = await self._calls.request("GET", self._resource.path(namespace, name))
        except errors.ApiNotFoundError:
            return None
        manifest: ports.Manifest = msgspec.json.decode(answer)
        return manifest

    async def create(self, namespace: str, manifest: ports.Manifest) -> T:
        path = self._resource.path(namespace)
        return self._decoder.decode(await self._calls.request("POST", path, body=manifest))

    async def patch(
        self, namespace: str, name: str, patch: ports.Patch, *, subresource: str = ""
    ) -> T:
        kind = "json-patch" if isinstance(patch, list) else "merge-patch"
        answer = await self._calls.request(
            "PATCH",
            self._resource.path(namespace, name, subresource),
            body=patch,
            content_type=f"application/{kind}+json",
        )
        return self._decoder.decode(answer)

    async def delete(
        self, namespace: str, name: str, *, uid: str, resource_version: str = ""
    ) -> None:
        preconditions = {"uid": uid}
        if resource_version:
            preconditions["resourceVersion"] = resource_version
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        try:
            await self._calls.request("DELETE", self._resource.path(namespace, name), body=body)
        except errors.ApiNotFoundError:
            return
