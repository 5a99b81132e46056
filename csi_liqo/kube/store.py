"""The objects of one kind as last seen, with indexes and with people waiting for changes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from csi_liqo.model import objects

T = TypeVar("T", bound=objects.Object)
R = TypeVar("R")

Key = tuple[str, str]
"""Namespace and name; the namespace is empty for a cluster-scoped object."""

Index = Callable[[T], Iterable[str]]
"""The values under which an object is found in an index."""

Listener = Callable[[T | None, T | None], None]
"""Called with an object before and after a change: None is "did not exist"."""


class Store(Generic[T]):
    """A cache of one kind. Not thread-safe: it lives on one event loop."""

    def __init__(self, indexes: Mapping[str, Index[T]] | None = None) -> None:
        self._objects: dict[Key, T] = {}
        self._functions = dict(indexes or {})
        self._indexes: dict[str, dict[str, set[Key]]] = {name: {} for name in self._functions}
        self._waiters: dict[Key, set[asyncio.Future[None]]] = {}
        self._listeners: list[Listener[T]] = []
        self._synced = False
        self._sync_change = asyncio.Event()
        self._ended: Exception | None = None

    @property
    def synced(self) -> bool:
        return self._synced

    def set_synced(self, synced: bool) -> None:
        """State whether the store holds everything and is being kept up."""
        self._synced = synced
        if synced:
            self._sync_change.set()
        else:
            self._sync_change.clear()

    def end(self, error: Exception) -> None:
        """State that nobody keeps the store up any more: who waits on it gets ``error``."""
        self._ended = error
        self.set_synced(False)
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)

    async def wait_synced(self) -> None:
        """Wait until the store holds everything."""
        await self._sync_change.wait()

    def listen(self, listener: Listener[T]) -> Callable[[], None]:
        """Call ``listener`` on each change from now on, and now for each object there is.

        Returns what ends that.
        """
        self._listeners.append(listener)
        for thing in tuple(self._objects.values()):
            listener(None, thing)
        return functools.partial(self._listeners.remove, listener)

    def get(self, namespace: str, name: str) -> T | None:
        return self._objects.get((namespace, name))

    def all(self) -> Iterable[T]:
        return tuple(self._objects.values())

    def select(self, index: str, value: str) -> tuple[T, ...]:
        keys = self._indexes[index].get(value)
        if not keys:  # most often so, where each of hundreds of namespaces is asked
            return ()
        return tuple(self._objects[key] for key in sorted(keys))

    def put(self, thing: T) -> None:
        """Take in an object as it is now."""
        key = (thing.namespace, thing.name)
        before = self._objects.get(key)
        if before is not None and before.metadata.resource_version == (
            thing.metadata.resource_version
        ):
            return
        self._unindex(key, before)
        self._objects[key] = thing
        for name, function in self._functions.items():
            for value in function(thing):
                self._indexes[name].setdefault(value, set()).add(key)
        self._tell(key, before, thing)

    def remove(self, namespace: str, name: str) -> None:
        """Forget an object that is gone."""
        key = (namespace, name)
        before = self._objects.pop(key, None)
        if before is not None:
            self._unindex(key, before)
            self._tell(key, before, None)

    def replace(self, things: Iterable[T]) -> None:
        """Take in a whole list: what is not in it is gone."""
        fresh = {(thing.namespace, thing.name): thing for thing in things}
        for namespace, name in [key for key in self._objects if key not in fresh]:
            self.remove(namespace, name)
        for thing in fresh.values():
            self.put(thing)

    async def wait(self, namespace: str, name: str, until: Callable[[T | None], R | None]) -> R:
        """Wait until ``until`` of the object is not None; see ports.Objects.wait."""
        key = (namespace, name)
        while (result := until(self._objects.get(key))) is None:
            if self._ended is not None:
                raise self._ended
            change = asyncio.get_running_loop().create_future()
            waiters = self._waiters.setdefault(key, set())
            waiters.add(change)
            try:
                await change
            finally:
                waiters.discard(change)
                if not waiters and self._waiters.get(key) is waiters:
                    del self._waiters[key]
        return result

    def _unindex(self, key: Key, thing: T | None) -> None:
        if thing is None:
            return
        for name, function in self._functions.items():
            for value in function(thing):
                keys = self._indexes[name].get(value)
                if keys is not None:
                    keys.discard(key)
                    if not keys:
                        del self._indexes[name][value]

    def _tell(self, key: Key, before: T | None, after: T | None) -> None:
        for waiter in self._waiters.get(key, ()):
            if not waiter.done():
                waiter.set_result(None)
        for listener in tuple(self._listeners):
            listener(before, after)
