"""What a virtual volume names is protected, whatever others do to it or leave unsaid.

Who may write claims in a provider can take every mark off a twin; caches lag, and what one
replica wrote another does not know.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Final

import grpc
import pytest

from csi_liqo.kube import api, collection, connection, providers, resources, sources
from csi_liqo.model import errors, objects
from csi_liqo.reconcilers import lent_namespaces
from csi_liqo.reconcilers import twins as twin_reconciler
from csi_liqo.service.controller import twins as twin_service
from lab import control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, fabric, hands
from tests.cluster.test_adoption import RETAINING, make_volume, remembered
from tests.cluster.test_status_back import has_health

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

FINALIZER: Final = "csi.liqo.io/twin"
HANDED_OVER: Final = "csi.liqo.io/handed-over"
UNMARKED: Final[fabric.Json] = {
    "metadata": {
        "annotations": {HANDED_OVER: None, "csi.liqo.io/retained": None},
        "finalizers": None,
    }
}
"""The patch of somebody who takes all off a twin by which it is known to hold data."""


def is_marked(twin: fabric.Json | None) -> bool:
    about = (twin or {"metadata": {}})["metadata"]
    marked = about.get("annotations", {}).get(HANDED_OVER) == "true"
    return marked and FINALIZER in about.get("finalizers", ())


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_twin_gets_back_what_somebody_took_off_it(driver: fabric.Fabric, node: str) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, node, "csi-liqo")
    path = f"{made.collection}/{made.twin_name}"
    if not made.remote:
        await made.home.merge(path, fabric.OPENED)
    await made.home.merge(path, UNMARKED)
    await control_planes.wait_until(made.home, made.collection, made.twin_name, is_marked)

    await driver.drop("data")
    await driver.volume_gone(made.name)
    assert await driver.settled(before) == []


async def test_a_twin_without_its_marks_is_not_collected_while_a_volume_names_it(
    driver: fabric.Fabric,
) -> None:
    """Bound, and then released and retained, when not even its claim is there."""
    before = await driver.snapshot()
    made = await make_volume(driver, "milan", RETAINING)
    marker = await made.marker()
    path = f"{made.collection}/{made.twin_name}"
    await driver.release("data")
    for claimed in (True, False):
        if not claimed:
            await driver.drop("data")
            await remembered(made)
        await driver.controller.end()
        await made.home.merge(path, UNMARKED)
        async with hands.hands(driver) as use:
            cluster = use.everywhere.get("milan")
            assert cluster is not None
            twin = await cluster.claims.wait(
                made.namespace,
                made.twin_name,
                lambda found: found if found and not found.handed_over else None,
            )
            twins = twin_service.Twins(use.consumer)
            collector = twin_reconciler.OrphanTwins(use.consumer, use.everywhere, twins, 0)
            await collector.reconcile(("", twin.volume_id))
            with pytest.raises(errors.OperationPendingError, match="it stays"):
                await twins.discard(cluster, twin)
        await driver.controller.start()
        await control_planes.wait_until(made.home, made.collection, made.twin_name, is_marked)
    assert (await made.twin())["metadata"]["uid"] == made.first_uid
    assert marker.read_text() == "precious"

    policy = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    await driver.consumer.merge(f"{fabric.VOLUMES}/{made.name}", policy)
    await driver.volume_gone(made.name)
    assert await driver.settled(before) == []


async def test_the_next_claim_of_its_name_does_not_displace_a_twin_without_its_marks(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, "milan", RETAINING)
    marker = await made.marker()
    await driver.drop("data")
    await remembered(made)
    await driver.controller.end()
    await made.home.merge(f"{made.collection}/{made.twin_name}", UNMARKED)
    await driver.claim_on("data", "milan")
    await driver.controller.start()

    await driver.event("data", "csi-liqo adopt")

    assert (await made.twin())["metadata"]["uid"] == made.first_uid
    assert marker.read_text() == "precious"
    await driver.drop("data")
    policy = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    await driver.consumer.merge(f"{fabric.VOLUMES}/{made.name}", policy)
    await driver.volume_gone(made.name)
    assert await driver.settled(before) == []


async def test_the_real_volume_of_a_collected_twin_goes_with_it(
    prepared: Planes, tmp_path: Path, namespace: str
) -> None:
    """Freed from its twin by the driver, it would be left over as Available."""
    async with fabric.running(*prepared, tmp_path, namespace, orphan_grace_seconds=3) as driver:
        before = await driver.snapshot()
        twin = fabric.claim("pvc-of-nobody", storage_class="hostpath")
        twin["metadata"] |= {
            "labels": {"csi.liqo.io/volume": "pvc-of-nobody", "csi.liqo.io/consumer": "rome"},
            "annotations": {
                "csi.liqo.io/claim": f"{namespace}/nobody",
                "csi.liqo.io/claim-uid": "of-nobody",
            },
            "finalizers": [FINALIZER],
        }
        await driver.consumer.create(driver.twins, twin)
        await control_planes.wait_until(
            driver.consumer,
            driver.twins,
            "pvc-of-nobody",
            lambda item: (item or {}).get("status", {}).get("phase") == "Bound",
        )
        await control_planes.wait_until_gone(driver.consumer, driver.twins, "pvc-of-nobody")
        assert await driver.settled(before) == []


async def test_a_forgotten_volume_keeps_its_data_though_its_home_is_in_sight(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, "milan", "csi-liqo")
    marker = await made.marker()
    path = f"{fabric.VOLUMES}/{made.name}"
    await driver.consumer.merge(
        path, {"metadata": {"annotations": {"csi.liqo.io/forgotten": "milan"}}}
    )
    await driver.drop("data")

    query = {"fieldSelector": f"involvedObject.name={made.name}"}
    events = "/api/v1/namespaces/default/events"
    async with asyncio.timeout(40):
        listed = await driver.consumer.get(events, query)
        told = any("was forgotten" in item["message"] for item in listed["items"])
        query["resourceVersion"] = listed["metadata"]["resourceVersion"]
        if not told:
            async for seen in driver.consumer.watch(events, query, silence_seconds=40):
                if "was forgotten" in str(seen["object"].get("message", "")):
                    break
    assert marker.read_text() == "precious"
    assert (await made.twin())["metadata"]["uid"] == made.first_uid

    await driver.consumer.merge(
        path, {"metadata": {"annotations": {"csi.liqo.io/forgotten": None}}}
    )
    await driver.volume_gone(made.name)
    assert await driver.settled(before) == []


@pytest.mark.parametrize("done", [False, True], ids=["begun", "done"])
async def test_a_volume_is_not_deleted_while_the_cache_does_not_show_the_repair_of_its_twin(
    prepared: Planes, tmp_path: Path, namespace: str, done: bool
) -> None:
    """Its twin is the one of before to the cache: going, or gone, and the data is elsewhere."""
    rome = prepared[0]
    rights = rome.kubeconfig_for(fabric.CONTROLLER_USER)
    volumes = rules.Match(resource="persistentvolumes", is_watch=True)
    async with (
        proxy.FaultProxy(rights, tmp_path / "cached") as cached,
        proxy.FaultProxy(rome.kubeconfig, tmp_path / "repairing") as repairing,
        fabric.running(
            *(*prepared, tmp_path, namespace), consumer_kubeconfig=cached.kubeconfig
        ) as driver,
    ):
        before = await driver.snapshot()
        made = await make_volume(driver, "rome-1", "csi-liqo")
        marker = await made.marker()
        real = (await made.real())["metadata"]["uid"]
        handle = str(
            (await driver.consumer.get(f"{fabric.VOLUMES}/{made.name}"))["spec"]["csi"][
                "volumeHandle"
            ]
        )
        await made.delete_twin()
        await control_planes.wait_until(
            driver.consumer, fabric.VOLUMES, made.name, has_health("TwinDeleted")
        )
        cached.silence_watches(volumes)
        caller = calls.Caller(driver)
        async with hands.hands(driver, consumer_kubeconfig=repairing.kubeconfig) as use:
            if done:
                await use.repair.repair(made.name)
            else:
                pause = repairing.pause_at(1, rules.When.AFTER)  # only the note was written
                task = asyncio.create_task(use.repair.repair(made.name))
                await pause.wait_until_reached()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                pause.drop()

            code, text = await caller.delete(handle)

            assert code is grpc.StatusCode.ABORTED
            assert "is being made again" in text
            twin = await made.twin()
            assert FINALIZER in twin["metadata"]["finalizers"]
            assert done is ("deletionTimestamp" not in twin["metadata"])
            await use.repair.repair(made.name)
        await caller.close()
        cached.end_silence()
        assert (await made.real())["metadata"]["uid"] == real
        assert marker.read_text() == "precious"
        await control_planes.wait_until(driver.consumer, fabric.VOLUMES, made.name, is_well)
        await driver.drop("data")
        await driver.volume_gone(made.name)
        assert await driver.settled(before) == []


def is_well(volume: fabric.Json | None) -> bool:
    annotations = (volume or {"metadata": {}})["metadata"].get("annotations", {})
    return "csi.liqo.io/health" not in annotations


async def test_a_count_that_another_replica_wrote_is_corrected_by_the_next_leader(
    driver: fabric.Fabric,
) -> None:
    """By that count a provider lets a namespace go, or keeps it."""
    made = await make_volume(driver, "milan", "csi-liqo")
    await driver.controller.end()
    maps = f"/api/v1/namespaces/{made.namespace}/configmaps"
    async with (
        hands.hands(driver, provider_kubeconfig=driver.milan.kubeconfig) as use,
        await api.Api.from_kubeconfig(driver.milan.kubeconfig) as calls,
    ):
        known = use.everywhere.get("milan")
        assert known is not None
        written = collection.Collection(calls, calls, resources.CONFIG_MAPS)
        provider = dataclasses.replace(known, config_maps=written)
        counts = lent_namespaces.LentNamespaces(
            lambda: (provider,), lambda _: (made.namespace,), "rome"
        )
        await counts.reconcile(lent_namespaces.KEY)
        count = await made.home.get(f"{maps}/csi-liqo-rome")
        assert count["data"] == {"twins": "1"}
        await made.home.merge(f"{maps}/csi-liqo-rome", {"data": {"twins": "0"}})

        counts.doubt()
        await counts.reconcile(lent_namespaces.KEY)

    count = await made.home.get(f"{maps}/csi-liqo-rome")
    assert count["data"] == {"twins": "1"}
    await driver.controller.start()
    await driver.drop("data")
    await driver.volume_gone(made.name)


async def test_a_volume_is_not_called_gone_while_a_provider_is_described_twice(
    driver: fabric.Fabric,
) -> None:
    """Neither description is used then, so nobody looks into that cluster."""
    changed = asyncio.Event()

    async def in_no_other(_: objects.RemoteClusterSpec) -> tuple[str, ...]:
        return ()

    async def until(remote: providers.Providers, *, complete: bool) -> None:
        async with asyncio.timeout(20):
            while remote.complete() is not complete:
                changed.clear()
                await changed.wait()

    async with await api.Api.from_kubeconfig(driver.rome.kubeconfig) as rome:
        known = collection.Collection(rome, rome, resources.REMOTE_CLUSTERS)
        described = sources.Sources(known, None)
        around = connection.Surroundings(
            consumer_id="rome",
            calls=rome,
            watches=rome,
            on_report=lambda _: changed.set(),
            on_claim=lambda *_: None,
            namespaces_in_use=lambda _: (driver.remote_namespace,),
            mapped_namespaces=in_no_other,
        )
        remote = providers.Providers(around, described)
        tasks = [asyncio.create_task(known.keep())]
        await known.store.wait_synced()
        described.follow()
        assert not remote.complete()  # no connection is begun yet
        tasks.append(asyncio.create_task(remote.run()))
        await until(remote, complete=True)

        twice = fabric.remote_cluster({}) | {"metadata": {"name": "milan-again"}}
        made = await driver.consumer.create(fabric.REMOTE_CLUSTERS, twice)
        await until(remote, complete=False)

        path = f"{fabric.REMOTE_CLUSTERS}/milan-again"
        await driver.consumer.delete(path, uid=made["metadata"]["uid"])
        await until(remote, complete=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_precondition_that_fails_is_told_from_an_object_that_is_refused(
    driver: fabric.Fabric,
) -> None:
    """The first heals by looking again; the second is for somebody to mend."""
    async with await api.Api.from_kubeconfig(driver.rome.kubeconfig) as rome:
        claims = collection.Collection(rome, rome, resources.CLAIMS)
        where = (driver.namespace, "tried")
        made = await claims.create(driver.namespace, fabric.claim("tried"))
        for patch in (
            [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}],
            [{"op": "remove", "path": "/spec/volumeName"}],
            {"metadata": {"uid": "of-another", "labels": {"a": "b"}}},
            {"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}},
        ):
            with pytest.raises(errors.ApiConflictError):
                await claims.patch(*where, patch)
        with pytest.raises(errors.ApiInvalidError):
            await claims.patch(*where, {"metadata": {"uid": made.uid, "labels": {"a": "?"}}})
        with pytest.raises(errors.ApiConflictError):
            await claims.delete(*where, uid="of-another")
    await driver.drop("tried")
