"""An attachment to a real driver goes with its outer one, and no sooner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from csi_liqo.kube import api, collection, event_warnings, indexes, resources
from csi_liqo.reconcilers import attachments as attachment_reconciler
from csi_liqo.service.controller import clusters
from tests import control_planes
from tests.cluster import fabric, real_drivers


@contextlib.asynccontextmanager
async def attachments_without_volumes(
    driver: fabric.Fabric,
) -> AsyncIterator[tuple[attachment_reconciler.OrphanAttachments, Any]]:
    """The collector of attachments, with a cache of volumes that has not seen any yet."""
    async with await api.Api.from_kubeconfig(driver.rome.kubeconfig) as rome:
        shown = collection.Collection(
            rome, rome, resources.ATTACHMENTS, indexes=indexes.ATTACHMENTS
        )
        task = asyncio.create_task(shown.keep())
        await shown.store.wait_synced()
        nothing: dict[str, Any] = {
            "claims": collection.Collection(rome, rome, resources.CLAIMS, indexes=indexes.CLAIMS),
            "volumes": collection.Collection(
                rome, rome, resources.VOLUMES, indexes=indexes.local_volumes(driver.name)
            ),
            "classes": collection.Collection(rome, rome, resources.CLASSES),
            "nodes": collection.Collection(rome, rome, resources.NODES, indexes=indexes.NODES),
            "csi_nodes": collection.Collection(rome, rome, resources.CSI_NODES),
            "csi_drivers": collection.Collection(rome, rome, resources.CSI_DRIVERS),
        }
        consumer = clusters.Consumer(
            cluster_id="rome", warnings=event_warnings.EventWarnings(rome), **nothing
        )
        try:
            yield attachment_reconciler.OrphanAttachments(consumer, shown, driver.name), shown
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_an_attachment_is_not_taken_from_a_volume_that_the_cache_does_not_show_yet(
    driver: fabric.Fabric,
) -> None:
    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    made = volume["metadata"]["name"]
    path = real_drivers.ATTACHMENTS

    def attachment(name: str, attacher: str, volume: str) -> fabric.Json:
        labels = {
            "csi.liqo.io/volume": made,
            "csi.liqo.io/consumer": "rome",
            "csi.liqo.io/driver": driver.name,
        }
        return {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": name, "labels": labels if attacher != driver.name else {}},
            "spec": {
                "attacher": attacher,
                "nodeName": "rome-1",
                "source": {"persistentVolumeName": volume},
            },
        }

    outer, inner = f"outer-{made}", f"inner-{made}"
    asked = await driver.consumer.create(path, attachment(outer, driver.name, made))
    await driver.consumer.create(path, attachment(inner, "real.example.com", "real"))
    async with attachments_without_volumes(driver) as (collector, shown):
        await shown.wait("", inner, lambda found: found)
        await shown.wait("", outer, lambda found: found)
        await collector.reconcile(("", inner))
        assert await driver.consumer.find(f"{path}/{inner}") is not None

        await driver.consumer.delete(f"{path}/{outer}", uid=asked["metadata"]["uid"])
        await shown.wait("", outer, lambda found: found is None or None)
        await collector.reconcile(("", inner))
    await control_planes.wait_until_gone(driver.consumer, path, inner)
    await driver.drop("data")
    await driver.volume_gone(made)
