"""All clusters as the controller sees them, for one command of a person.

The same caches, connections and use cases as in the controller, with the person's own
rights in this cluster and the providers' own credentials. Nothing acts by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.kube import (
    api,
    collection,
    connection,
    event_warnings,
    indexes,
    liqo,
    namespaces,
    providers,
    resources,
    server,
    sources,
    store,
)
from csi_liqo.model import attempts, errors, objects
from csi_liqo.service.controller import (
    adoption,
    clusters,
    description,
    inventory,
    negotiation,
    repair,
)
from csi_liqo.service.tools import begun, told, virtual
from csi_liqo.service.tools.doctor import providers as provider_checks

CONTACT_SECONDS: Final = 15.0
"""How long a command waits for the clusters to be in sight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The use cases over all clusters that could be reached."""

    inventory: inventory.Inventory
    adoption: adoption.Adoption
    repair: repair.Repair
    consumer: clusters.Consumer
    everywhere: clusters.Clusters
    out_of_sight: tuple[str, ...]


@contextlib.asynccontextmanager
async def observing(
    kubeconfig: pathlib.Path | None, context: str | None, known: told.Told, driver: str
) -> AsyncIterator[Sight]:
    """Look at all clusters for the time of the block; those out of reach are named.

    ``known`` says all that there is to say: the cluster's id, what describes the providers,
    and the programs that may be started.

    Raises:
        errors.ApiError: this cluster refuses, or does not answer.
    """
    async with (
        await server.of_person(kubeconfig, context) as calls,
        await server.of_person(kubeconfig, context) as watches,
    ):
        view = _View(calls, watches, known, driver)
        try:
            yield await view.open()
        finally:
            await view.close()


class _View:
    """The caches of one command."""

    def __init__(self, calls: api.Api, watches: api.Api, known: told.Told, driver: str) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls = calls
        self._id = known.cluster_id
        self._begun: dict[str, attempts.Attempt] = {}
        self._driver = driver

        def part(resource: Any, **more: Any) -> collection.Collection[Any]:
            return collection.Collection(calls, watches, resource, on_failure=self._failed, **more)

        source = known.source or told.Source.CSI_LIQO
        remote_clusters = part(resources.REMOTE_CLUSTERS) if source.of_our_own else None
        nodes = part(resources.NODES, indexes=indexes.NODES)
        self._consumer = clusters.Consumer(
            cluster_id=self._id,
            claims=part(resources.CLAIMS, indexes=indexes.CLAIMS),
            volumes=part(resources.VOLUMES, indexes=_volume_indexes(driver)),
            classes=part(resources.CLASSES),
            nodes=nodes,
            csi_nodes=part(resources.CSI_NODES),
            csi_drivers=part(resources.CSI_DRIVERS),
            warnings=event_warnings.EventWarnings(calls),
        )
        self._local = (*self._parts(), *([remote_clusters] if remote_clusters else []))
        self._liqo = liqo.LiqoClusters(calls, watches, nodes) if source.of_liqo else None
        self._sources = sources.Sources(remote_clusters, self._liqo)
        around = connection.Surroundings(
            consumer_id=self._id,
            calls=calls,
            watches=watches,
            on_report=lambda _: None,
            on_claim=lambda *_: None,
            namespaces_in_use=self._namespaces_in_use,
            mapped_namespaces=self._mapped_namespaces,
            patience_seconds=CONTACT_SECONDS,
            exec_plugins=known.exec_plugins,
            remembered=self._remembered_identity,
        )
        self._providers = providers.Providers(around, self._sources)
        self._everywhere = clusters.Clusters(self._consumer, self._providers)

    async def open(self) -> Sight:
        """Wait for this cluster's caches, then a moment for each provider's."""
        for part in self._local:
            self._begin(part.keep())
        synced = asyncio.ensure_future(_wait_synced(self._local))
        await asyncio.wait(
            {synced, self._refused},
            timeout=CONTACT_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._refused.done():
            synced.cancel()
            self._refused.result()
        if not synced.done():
            synced.cancel()
            raise errors.ApiUnavailableError("this cluster's API server does not answer in time")
        self._begun = await begun.read_if_allowed(server.Server(self._calls))
        self._sources.follow()
        hidden = await self._follow_liqo()
        self._begin(self._providers.run())
        ids = sorted({remote.spec.cluster_id for remote in self._sources.all()})
        found = await asyncio.gather(*(self._everywhere.ready(one) for one in ids))
        # A person rather waits for the whole list than asks again.
        seen = [cluster.claims for cluster in found if cluster is not None]
        await asyncio.gather(*(claims.ready("") for claims in seen))
        listed = inventory.Inventory(self._consumer, self._everywhere)
        return Sight(
            inventory=listed,
            adoption=adoption.Adoption(self._consumer, self._everywhere, listed, self._driver),
            repair=repair.Repair(self._consumer, self._everywhere),
            consumer=self._consumer,
            everywhere=self._everywhere,
            out_of_sight=hidden
            + tuple(
                f"cluster {one} ({self._everywhere.trouble(one) or 'no connection'})"
                for one, cluster in zip(ids, found, strict=True)
                if cluster is None
            ),
        )

    async def _follow_liqo(self) -> tuple[str, ...]:
        """Wait for what Liqo describes; returns what to say if that cannot be seen."""
        if self._liqo is None:
            return ()
        self._begin(self._liqo.keep())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONTACT_SECONDS):
                await self._liqo.settle()
        if self._liqo.filled.is_set():
            return ()
        why = self._liqo.complaint or "the API server does not answer in time"
        return (f"what only Liqo describes ({why})",)

    async def close(self) -> None:
        """End every watch."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refused.cancel()

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work, name="watch"))

    def _parts(self) -> Iterable[collection.Collection[Any]]:
        consumer: Any = self._consumer
        kinds = ("claims", "volumes", "classes", "nodes", "csi_nodes", "csi_drivers")
        return tuple(getattr(consumer, kind) for kind in kinds)

    def _failed(self, error: errors.ApiError | None) -> None:
        """Give up at what waiting does not heal: no right, no credential, no such kind."""
        final = isinstance(error, (errors.ApiForbiddenError, errors.ApiNotFoundError))
        if error is not None and (final or error.status == 401) and not self._refused.done():
            self._refused.set_exception(error)

    def _namespaces_in_use(self, spec: objects.RemoteClusterSpec) -> Iterable[str]:
        return provider_checks.used_namespaces(
            spec,
            self._id,
            self._consumer.volumes.all(),
            self._begun.values(),
        )

    def _remembered_identity(self, cluster_id: str) -> str:
        return description.remembered_identity(self._consumer.volumes.all(), cluster_id)

    async def _mapped_namespaces(self, spec: objects.RemoteClusterSpec) -> Iterable[str]:
        if not negotiation.maps_unnamed(spec):
            return ()
        known = await namespaces.list_names(self._calls)
        return negotiation.map_all(spec, self._id, known)


async def _wait_synced(parts: Iterable[collection.Collection[Any]]) -> None:
    for part in parts:
        await part.store.wait_synced()


def _volume_indexes(driver: str) -> Mapping[str, store.Index[objects.PersistentVolume]]:
    """Two installations share one cluster's twins: a volume of either is a twin's volume."""

    def by_handle(volume: objects.PersistentVolume) -> Iterable[str]:
        source = volume.spec.csi
        return (source.volume_handle,) if source is not None and virtual.is_virtual(volume) else ()

    return {**indexes.local_volumes(driver), clusters.BY_HANDLE: by_handle}
