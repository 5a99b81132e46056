"""The harness's own record of every claim and volume that ever was, by uid.

It is kept from the API servers' own watches, past the proxies and the driver: what the
driver says of itself proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lab import api, mirror

Json = dict[str, Any]

CONSUMER: Final = "rome"
HANDED_OVER: Final = "csi.liqo.io/handed-over"
CLAIM_UID: Final = "csi.liqo.io/claim-uid"
DRIVER: Final = "csi.liqo.io"
TWINS: Final = "csi-liqo-storage"

CLAIMS: Final = "persistentvolumeclaims"
VOLUMES: Final = "persistentvolumes"
EVENTS: Final = "events"
PODS: Final = "pods"


@dataclass(slots=True)
class Life:
    """One object from its creation to its end: as last seen, and whether it is there."""

    cluster: str
    last: Json
    alive: bool = True
    handed_over: bool = False

    @property
    def uid(self) -> str:
        return str(self.last["metadata"]["uid"])

    @property
    def name(self) -> str:
        """`namespace/name`, or the name alone."""
        metadata = self.last["metadata"]
        return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))

    @property
    def deleted_at(self) -> str:
        """When its deletion was asked for, by its API server's clock; empty when it was not."""
        return str(self.last["metadata"].get("deletionTimestamp", ""))

    @property
    def there(self) -> bool:
        """Whether it exists and is to go on existing."""
        return self.alive and not self.deleted_at

    def annotation(self, key: str) -> str:
        return str((self.last["metadata"].get("annotations") or {}).get(key, ""))

    def __str__(self) -> str:
        state = "is there" if self.there else "is going" if self.alive else "is gone"
        handed = ", handed over" if self.handed_over else ""
        deleted = f", deleted at {self.deleted_at}" if self.deleted_at else ""
        return f"{self.cluster}: {self.name} ({self.uid}) {state}{handed}{deleted}"


@dataclass(slots=True)
class Record:
    """All lives, by resource and uid; `changed` is set by every piece of news."""

    namespace: str
    remote_namespace: str
    claims: dict[str, Life] = field(default_factory=dict)
    volumes: dict[str, Life] = field(default_factory=dict)
    pods: dict[str, Life] = field(default_factory=dict)
    warned: dict[str, list[str]] = field(default_factory=dict)
    """Claims' uid -> the messages of the Warnings about them, the first of each kind first."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def virtual_claims(self) -> Iterator[Life]:
        for life in self.claims.values():
            if (life.cluster, _namespace(life)) == (CONSUMER, self.namespace):
                yield life

    @property
    def twins(self) -> Iterator[Life]:
        """The claims beside the users', in the namespaces where twins are."""
        for life in self.claims.values():
            local = life.cluster == CONSUMER
            if _namespace(life) == (TWINS if local else self.remote_namespace):
                yield life

    @property
    def virtual_volumes(self) -> Iterator[Life]:
        for life in self.volumes.values():
            if life.last["spec"].get("csi", {}).get("driver") == DRIVER:
                yield life

    @property
    def real_volumes(self) -> Iterator[Life]:
        for life in self.volumes.values():
            if "csi" not in life.last["spec"]:
                yield life

    def take(self, cluster: str, resource: str, item: Json, *, alive: bool) -> None:
        """Note what a watch says of an object."""
        if resource == EVENTS:
            if item.get("type") == "Warning":
                said = self.warned.setdefault(str(item["involvedObject"].get("uid", "")), [])
                if item.get("message", "") not in said:
                    said.append(item.get("message", ""))
        else:
            life = self._lives(resource).setdefault(item["metadata"]["uid"], Life(cluster, item))
            life.last, life.alive = item, alive
            life.handed_over |= life.annotation(HANDED_OVER) == "true"
        self.changed.set()

    async def news(self) -> None:
        """Wait for the next piece of news."""
        self.changed.clear()
        await self.changed.wait()

    def miss(self, cluster: str, resource: str, present: Mapping[str, Json]) -> None:
        """Note as gone what a new list has no more: a watch that broke does not tell of it."""
        for uid, life in self._lives(resource).items():
            if life.cluster == cluster and uid not in present:
                life.alive = False

    def _lives(self, resource: str) -> dict[str, Life]:
        return {CLAIMS: self.claims, VOLUMES: self.volumes, PODS: self.pods}[resource]


def _namespace(life: Life) -> str:
    return str(life.last["metadata"].get("namespace", ""))


class _Watcher:
    """Follows one resource of one cluster into the record."""

    def __init__(self, record: Record, cluster: str, server: api.Api, resource: str) -> None:
        self._record = record
        self._cluster = cluster
        self._resource = resource
        self.mirror = mirror.Mirror(server, f"/api/v1/{resource}", changed=self._changed)

    def _changed(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        found = self.mirror.objects.get(mirror.key_of(item))
        alive = found is not None and found["metadata"]["uid"] == uid
        self._record.take(self._cluster, self._resource, item, alive=alive)
        if self._resource != EVENTS:
            present = {one["metadata"]["uid"]: one for one in self.mirror.objects.values()}
            self._record.miss(self._cluster, self._resource, present)


@contextlib.asynccontextmanager
async def kept(record: Record, servers: Mapping[str, api.Api]) -> AsyncIterator[None]:
    """Keep the record for the time of the block, from when all is seen once."""
    watchers = [
        _Watcher(record, cluster, server, resource)
        for cluster, server in servers.items()
        for resource in (CLAIMS, VOLUMES, *((EVENTS, PODS) if cluster == CONSUMER else ()))
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher.mirror.run()) for watcher in watchers]
        try:
            for watcher in watchers:
                await watcher.mirror.synced.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
