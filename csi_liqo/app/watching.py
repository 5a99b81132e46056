"""Following where the data of each virtual claim is, by watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from csi_liqo.kube import api, collection, resources
from csi_liqo.model import errors, names, objects
from csi_liqo.service.tools import whereabouts

Show = Callable[[list[whereabouts.Row]], None]


class Watching:
    """The watches of one command, until it is ended."""

    def __init__(self, calls: api.Api, namespace: str, classes: list[objects.StorageClass]) -> None:
        """``namespace`` empty means all; ``classes`` are those that could be read."""
        self._namespace = namespace
        self._classes = classes
        self._changed = asyncio.Event()
        self._refusal: errors.ApiError | None = None
        self._needed: list[collection.Collection[Any]] = []
        self._volumes = self._part(calls, resources.VOLUMES)
        self._claims = self._part(calls, resources.CLAIMS, namespace)
        self._tell_twins = asyncio.Event()
        self._twins = (
            collection.Collection(
                calls,
                calls,
                resources.CLAIMS,
                namespace=names.DEFAULT_TWINS_NAMESPACE,
                on_failure=lambda _: self._tell_twins.set(),
            )
            if namespace
            else None
        )

    def _part(
        self, calls: api.Api, resource: Any, namespace: str = ""
    ) -> collection.Collection[Any]:
        part: collection.Collection[Any] = collection.Collection(
            calls, calls, resource, namespace=namespace, on_failure=self._failed
        )
        self._needed.append(part)
        return part

    async def run(self, show: Show) -> None:
        """Call ``show`` with how it is, now and after each change; ends by being cancelled.

        Raises:
            errors.ApiForbiddenError: claims or volumes may not be watched.
        """
        parts = [*self._needed, *([self._twins] if self._twins is not None else [])]
        tasks = [asyncio.create_task(part.keep(), name="watch") for part in parts]
        try:
            await self._first()
            while True:
                self._refuse()
                found = whereabouts.Whereabouts(
                    self._volumes.all(),
                    (*self._claims.all(), *(self._twins.all() if self._twins else ())),
                    self._classes,
                )
                show(found.rows(self._namespace))
                await self._changed.wait()
                self._changed.clear()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self) -> None:
        """Wait until all there is was listed, or something is refused."""
        for part in (*self._needed, *([self._twins] if self._twins is not None else [])):
            part.store.listen(lambda *_: self._changed.set())
        synced = asyncio.create_task(self._synced(), name="first lists")
        refused = asyncio.create_task(self._refused(), name="refusal")
        await asyncio.wait({synced, refused}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (synced, refused):
            waiting.cancel()
        self._refuse()
        if self._twins is not None:
            await self._tell_twins.wait()  # synced, or not to be seen: either is told
        self._changed.clear()

    async def _synced(self) -> None:
        for part in self._needed:
            await part.store.wait_synced()

    async def _refused(self) -> None:
        while self._refusal is None:
            await self._changed.wait()
            self._changed.clear()

    def _refuse(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _failed(self, error: errors.ApiError | None) -> None:
        if isinstance(error, errors.ApiForbiddenError) or (error and error.status == 401):
            self._refusal = error
            self._changed.set()
