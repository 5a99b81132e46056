"""The use cases that only a command starts, over two real clusters, at hand in a test.

The consumer is used with its administrator's rights, the provider with those that it gave
the consumer; either through a proxy where a test wants faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from csi_liqo.kube import api, collection, event_warnings, indexes, resources
from csi_liqo.model import names, objects
from csi_liqo.service.controller import adoption, clusters, disposal, inventory, repair
from csi_liqo.service.controller import twins as twin_service
from tests.cluster import fabric

Entry = inventory.Entry


@dataclass(frozen=True, slots=True)
class OneProvider:
    """Implements clusters.Providers for one provider that is connected."""

    cluster: clusters.Cluster

    def get(self, cluster_id: str) -> clusters.Cluster | None:
        return self.cluster if cluster_id == self.cluster.id else None

    async def ready(self, cluster_id: str) -> clusters.Cluster | None:
        return self.get(cluster_id)

    def all(self) -> Iterable[clusters.Cluster]:
        return (self.cluster,)

    def trouble(self, cluster_id: str) -> str:
        return ""

    def complete(self) -> bool:
        return True

    def described(self) -> frozenset[str] | None:
        return frozenset({self.cluster.id})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What a person can do, and the caches that it is done by."""

    consumer: clusters.Consumer
    everywhere: clusters.Clusters
    inventory: inventory.Inventory
    adoption: adoption.Adoption
    disposal: disposal.Disposal
    repair: repair.Repair

    async def entry(self, cluster_id: str, namespace: str, name: str) -> Entry:
        """Return what the inventory says of a twin, once the caches show it."""
        cluster = self.everywhere.get(cluster_id)
        assert cluster is not None
        twin = await cluster.claims.wait(namespace, name, lambda found: found)
        return self.inventory.entry(cluster, twin)


@contextlib.asynccontextmanager
async def hands(
    driver: fabric.Fabric,
    *,
    consumer_kubeconfig: pathlib.Path | None = None,
    provider_kubeconfig: pathlib.Path | None = None,
    reads_volumes: bool = True,
) -> AsyncIterator[Hands]:
    """Have the use cases for the time of the block, all caches filled."""
    rights = provider_kubeconfig or driver.milan.kubeconfig_for(fabric.CONSUMER_USER)
    async with (
        await api.Api.from_kubeconfig(consumer_kubeconfig or driver.rome.kubeconfig) as rome,
        await api.Api.from_kubeconfig(rights) as milan,
        asyncio.TaskGroup() as tasks,
    ):
        parts: list[collection.Collection[Any]] = []

        def kept(server: api.Api, resource: Any, **more: Any) -> collection.Collection[Any]:
            part = collection.Collection(server, server, resource, **more)
            parts.append(part)
            return part

        consumer = clusters.Consumer(
            cluster_id="rome",
            claims=kept(rome, resources.CLAIMS, indexes=indexes.CLAIMS),
            volumes=kept(rome, resources.VOLUMES, indexes=indexes.local_volumes(driver.name)),
            classes=kept(rome, resources.CLASSES),
            nodes=kept(rome, resources.NODES, indexes=indexes.NODES),
            csi_nodes=kept(rome, resources.CSI_NODES),
            csi_drivers=kept(rome, resources.CSI_DRIVERS),
            warnings=event_warnings.EventWarnings(rome),
        )
        provider = clusters.Cluster(
            id="milan",
            claims=kept(
                milan,
                resources.CLAIMS,
                indexes=indexes.CLAIMS,
                namespace=driver.remote_namespace,
                label_selector=f"{names.CONSUMER_LABEL}=rome",
            ),
            volumes=kept(milan, resources.VOLUMES, indexes=indexes.REMOTE_VOLUMES)
            if reads_volumes
            else None,
            classes=None,
            warnings=event_warnings.EventWarnings(milan),
            spec=objects.RemoteClusterSpec(
                cluster_id="milan",
                namespace_mapping=objects.NamespaceMapping(
                    explicit={driver.namespace: driver.remote_namespace}
                ),
            ),
        )
        running = [tasks.create_task(part.keep()) for part in parts]
        for part in parts:
            await part.store.wait_synced()
        everywhere = clusters.Clusters(consumer, OneProvider(provider))
        listed = inventory.Inventory(consumer, everywhere)
        adopting = adoption.Adoption(consumer, everywhere, listed, driver.name)
        made = twin_service.Twins(consumer)
        yield Hands(
            consumer=consumer,
            everywhere=everywhere,
            inventory=listed,
            adoption=adopting,
            disposal=disposal.Disposal(consumer, adopting, listed, made),
            repair=repair.Repair(consumer, everywhere),
        )
        for task in running:
            task.cancel()
