"""Many claims at once, and when each is bound or gone, as a watch tells.

The objects are made before the clock starts, and nothing but their creation is asked of
the API server while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from typing import Any, Final

from bench import fabric, manifests
from lab import api, templates

Json = dict[str, Any]

AT_ONCE: Final = 32
"""Requests of the bench in flight: an API server takes them as from many users."""
LONGEST_SECONDS: Final = 300.0
_WORTH_SECONDS: Final = 0.1
# A bookmark with this annotation ends what the API server tells of the time before.
_COMPLETE: Final = "k8s.io/initial-events-end"
_FROM_NOW: Final = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "timeoutSeconds": "3600",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """One way to have a volume: a class, and the node that its pods are sent to.

    Attributes:
        name: for people.
        class_name: of the claims.
        node: where the pods go; empty for claims without pods.
        remote: the claims are made in the provider itself.
    """

    name: str
    class_name: str
    node: str = manifests.NODE
    remote: bool = False


HOST_PATH: Final = Way("real class hostPath", "hostpath")
LOOP: Final = Way("real class of the loop driver", "loop")
NOOP: Final = Way("do-nothing driver", "noop")
VIRTUAL_HOST_PATH: Final = Way("virtual over hostPath", "virtual-hostpath")
VIRTUAL_LOOP: Final = Way("virtual over the loop driver", "virtual-loop")
VIRTUAL_STATIC: Final = Way("virtual over static", "virtual-static")
REMOTE_NOW: Final = Way("remote, Immediate", "remote-now", manifests.PROVIDER)
REMOTE_WAITS: Final = Way("remote, WaitForFirstConsumer", "remote-waits", manifests.PROVIDER)
PROVIDER_NOW: Final = Way("claims in the provider, Immediate", "hostpath-now", "", remote=True)
PROVIDER_WAITS: Final = Way(
    "claims in the provider, WaitForFirstConsumer", "hostpath-waits", "", remote=True
)


class Watched:
    """The objects of a collection as they change: when each first was as wished."""

    def __init__(self, wished: Callable[[str, Json], bool]) -> None:
        self._wished = wished
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._complete = False
        self._version = ""
        self.times: dict[str, float] = {}

    async def follow(self, server: api.Api, path: str) -> None:
        """Take in what there is, as if it came now, and then each change until cancelled."""
        params = _FROM_NOW
        try:
            while True:
                # NB: a server ends the watch of a client that is slow to read; it goes on there.
                events = server.watch(path, params, silence_seconds=90)
                async with contextlib.aclosing(events):
                    async for event in events:
                        self._take(event)
                params = {"resourceVersion": self._version, "timeoutSeconds": "3600"}
        except api.FAILURES as error:
            self._error = error
            self._changed.set()

    def _take(self, event: Json) -> None:
        if event["type"] == "ERROR":
            raise api.ApiError(event["object"].get("code", 500), "", str(event["object"]))
        metadata = event["object"]["metadata"]
        self._version = str(metadata["resourceVersion"])
        if event["type"] == "BOOKMARK":
            self._complete = self._complete or _COMPLETE in metadata.get("annotations", {})
        elif metadata["name"] not in self.times and self._wished(event["type"], event["object"]):
            self.times[metadata["name"]] = time.monotonic()
        else:
            return
        self._changed.set()

    async def complete(self) -> None:
        """Wait until all that was there is taken in: from then on, changes come at once."""
        await self._until(lambda: self._complete)

    async def all_of(self, names: Collection[str]) -> float:
        """Wait until all of them are as wished; return when the last was."""
        await self._until(lambda: all(name in self.times for name in names))
        return max((self.times[name] for name in names), default=time.monotonic())

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONGEST_SECONDS):
            while not condition():
                if self._error is not None:
                    raise self._error
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def watching(
    server: api.Api, path: str, wished: Callable[[str, Json], bool]
) -> AsyncIterator[Watched]:
    """Follow a collection for the time of the block; what is there already is taken in."""
    watched = Watched(wished)
    task = asyncio.create_task(watched.follow(server, path))
    try:
        await watched.complete()
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def bound(_: str, item: Json) -> bool:
    """Tell whether a claim is bound."""
    return bool(item.get("status", {}).get("phase") == "Bound")


def there(kind: str, _: Json) -> bool:
    """Tell whether an object came."""
    return kind == "ADDED"


def gone(kind: str, _: Json) -> bool:
    """Tell whether an object went."""
    return kind == "DELETED"


async def at_once(work: Iterable[Awaitable[object]]) -> None:
    """Do all of it, as much at a time as the API server may be asked."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(part: Awaitable[object]) -> None:
        async with free:
            await part

    async with asyncio.TaskGroup() as group:
        for part in work:
            group.create_task(one(part))


class Bursts:
    """Makes and deletes claims by the ways; names are never used twice."""

    def __init__(self, clusters: fabric.Fabric) -> None:
        self._clusters = clusters
        self._made = 0

    @contextlib.contextmanager
    def processors(self) -> Iterator[dict[str, float]]:
        """Fill in, at the end of the block, the processor seconds that each program used."""
        used: dict[str, float] = {}
        before = self._clusters.processor_seconds()
        yield used
        for name, seconds in self._clusters.processor_seconds().items():
            if seconds - before[name] >= _WORTH_SECONDS:
                used[name] = seconds - before[name]

    def names(self, count: int) -> list[str]:
        """Return names that nothing ever had."""
        first, self._made = self._made, self._made + count
        return [f"c{number:06}" for number in range(first, first + count)]

    async def provision(self, way: Way, names: list[str], *, binds: bool = True) -> float:
        """Make claims and their pods; return the seconds from the first to the last Bound.

        Without `binds` it is the last one's appearance that ends it.
        """
        server, path = self._place(way)
        async with watching(server, path, bound if binds else there) as watched:
            start = time.monotonic()
            await at_once(self._claim(way, name) for name in names)
            return await watched.all_of(names) - start

    async def _claim(self, way: Way, name: str) -> None:
        server, path = self._place(way)
        await server.create(path, manifests.claim(name, way.class_name))
        if way.node:
            await server.create(fabric.PODS, templates.pod(name, way.node))

    async def delete(self, way: Way, names: list[str]) -> tuple[float, float]:
        """Delete claims; return the seconds until the last real and the last volume was gone.

        Their pods go before the clock starts. A class of ours has real volumes and virtual
        ones, all others' only volumes are the real ones.
        """
        server, path = self._place(way)
        await self._end_pods(way)
        claims = (await server.get(path))["items"]
        uids = {item["metadata"]["name"]: item["metadata"]["uid"] for item in claims}
        async with watching(server, fabric.VOLUMES, gone) as watched:
            before = (await server.get(fabric.VOLUMES))["items"]
            real = {
                item["metadata"]["name"]
                for item in before
                if item["spec"].get("csi", {}).get("driver") != manifests.DRIVER
            }
            start = time.monotonic()
            await at_once(server.delete(f"{path}/{name}", uid=uids[name]) for name in names)
            await watched.all_of([item["metadata"]["name"] for item in before])
            last_real = max(watched.times[name] for name in real)
            return last_real - start, max(watched.times.values()) - start

    async def clear(self, way: Way) -> None:
        """Take all claims, pods and volumes away, outside of any measurement."""
        await self.clear_claims(way)
        for cluster in (self._clusters.consumer, self._clusters.provider):
            await self._no_volumes(cluster)

    async def clear_claims(self, way: Way) -> None:
        """Take all claims and pods away; their volumes may stay."""
        server, path = self._place(way)
        await self._end_pods(way)
        async with watching(server, path, gone) as watched:
            there_now = {item["metadata"]["name"] for item in (await server.get(path))["items"]}
            await server.request("DELETE", path)
            await watched.all_of(there_now)

    async def _no_volumes(self, server: api.Api) -> None:
        async with watching(server, fabric.VOLUMES, gone) as watched:
            left = {
                item["metadata"]["name"] for item in (await server.get(fabric.VOLUMES))["items"]
            }
            await watched.all_of(left)

    async def _end_pods(self, way: Way) -> None:
        if not way.node:
            return
        server = self._clusters.consumer
        async with watching(server, fabric.PODS, gone) as watched:
            there_now = {
                item["metadata"]["name"] for item in (await server.get(fabric.PODS))["items"]
            }
            await server.request("DELETE", fabric.PODS, params={"gracePeriodSeconds": "0"})
            await watched.all_of(there_now)

    def _place(self, way: Way) -> tuple[api.Api, str]:
        if way.remote:
            return self._clusters.provider, fabric.REMOTE_CLAIMS
        return self._clusters.consumer, fabric.CLAIMS

    async def failures(self) -> int:
        """Return how often a volume could not be made or deleted, as events tell."""
        path = f"/api/v1/namespaces/{manifests.NAMESPACE}/events"
        listed = await self._clusters.consumer.get(path, {"fieldSelector": "type=Warning"})
        reasons = ("ProvisioningFailed", "VolumeFailedDelete")
        return sum(
            int(item.get("count") or 1) for item in listed["items"] if item["reason"] in reasons
        )
