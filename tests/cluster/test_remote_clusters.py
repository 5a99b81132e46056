"""What a RemoteCluster's status tells, and that it stays while volumes need it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lab import api
from tests import control_planes
from tests.cluster import fabric

BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
FINALIZER = "csi.liqo.io/remote-cluster"
PATH = f"{fabric.REMOTE_CLUSTERS}/milan"


def condition(item: fabric.Json | None, kind: str) -> fabric.Json:
    """Return one condition of a RemoteCluster; empty when it has it not."""
    conditions = (item or {}).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def says(kind: str, status: str, reason: str, words: str = "") -> Callable[[Any], bool]:
    def check(item: fabric.Json | None) -> bool:
        found = condition(item, kind)
        return (found.get("status"), found.get("reason")) == (status, reason) and (
            words in found["message"]
        )

    return check


def holds(finalizer: str) -> Callable[[Any], bool]:
    return lambda item: finalizer in ((item or {})["metadata"].get("finalizers") or ())


async def wait_for(
    driver: fabric.Fabric, check: Callable[[Any], bool], *, timeout_seconds: float = 40
) -> fabric.Json:
    found = await control_planes.wait_until(
        driver.consumer, fabric.REMOTE_CLUSTERS, "milan", check, timeout_seconds=timeout_seconds
    )
    return found or {}


async def test_all_that_is_known_of_a_provider_is_told(driver: fabric.Fabric) -> None:
    found = await wait_for(driver, fabric.is_ready)

    told = {c["type"]: (c["status"], c["reason"]) for c in found["status"]["conditions"]}
    assert told == {
        "Ready": ("True", "Ready"),
        "Connected": ("True", "Connected"),
        "Authorized": ("True", "Authorized"),
        "Negotiated": ("True", "Negotiated"),
        "Conflict": ("False", "NoConflict"),
    }
    assert all(c["observedGeneration"] for c in found["status"]["conditions"])
    offered = {c["name"]: c for c in found["status"]["offeredClasses"]}
    assert set(offered) == {"hostpath", "hostpath-wffc", "nobody"}
    assert offered["hostpath"]["default"]
    assert offered["hostpath-wffc"]["volumeBindingMode"] == "WaitForFirstConsumer"
    system = await driver.provider.get("/api/v1/namespaces/kube-system")
    assert found["status"]["identity"] == system["metadata"]["uid"]
    assert found["status"]["lastContact"]
    table = fabric.kubectl(driver.rome, "get", "remoteclusters", "milan")
    assert table.split()[:6] == ["NAME", "CLUSTER", "READY", "REASON", "VOLUMES", "IDENTITY"]


async def test_what_is_offered_no_more_is_told(driver: fabric.Fabric) -> None:
    await wait_for(driver, fabric.is_ready)
    mapped = [{"virtual": "csi-liqo", "offered": "static"}]
    await driver.consumer.merge(PATH, {"spec": {"classes": mapped}})
    await wait_for(driver, says("Negotiated", "False", "ClassNotOffered", "class static"))
    await wait_for(driver, says("Ready", "False", "ClassNotOffered", "csi.liqo.io/offered=true"))

    offer = {"metadata": {"labels": {"csi.liqo.io/offered": "true"}}}
    await driver.provider.merge(f"{fabric.CLASSES}/static", offer)
    try:
        await wait_for(driver, says("Negotiated", "True", "Negotiated", "static"))
    finally:
        offer["metadata"]["labels"]["csi.liqo.io/offered"] = None  # type: ignore[assignment]  # removes it
        await driver.provider.merge(f"{fabric.CLASSES}/static", offer)


async def test_a_grant_that_is_missing_is_told_with_what_it_costs(driver: fabric.Fabric) -> None:
    await wait_for(driver, fabric.is_ready)
    binding = "csi-liqo-consumer-offered-classes-rome"
    fabric.kubectl(driver.milan, "delete", "clusterrolebinding", binding)
    try:
        await driver.controller.end()
        await driver.controller.start()
        words = "classes may not be read, so each must be named"
        await wait_for(driver, says("Authorized", "True", "PartlyAuthorized", words))
        await wait_for(driver, says("Negotiated", "True", "Believed"))
        await wait_for(driver, fabric.is_ready)
    finally:
        to = ("--clusterrole=csi-liqo-consumer-offered-classes", f"--user={fabric.CONSUMER_USER}")
        fabric.kubectl(driver.milan, "create", "clusterrolebinding", binding, *to)
    # Nobody tells a client that it may do more than before: it looks once a minute.
    await wait_for(driver, says("Negotiated", "True", "Negotiated"), timeout_seconds=90)


async def test_a_namespace_without_rights_is_told(driver: fabric.Fabric) -> None:
    await wait_for(driver, fabric.is_ready)
    role = ("-n", driver.remote_namespace, "delete", "rolebinding")
    fabric.kubectl(driver.milan, *role, "csi-liqo-consumer-claims-rome")
    await driver.controller.end()
    await driver.controller.start()
    await wait_for(driver, says("Ready", "False", "Forbidden", driver.remote_namespace))
    await wait_for(driver, says("Authorized", "False", "Forbidden", "csi-liqo-consumer-claims"))

    to = ("--clusterrole=csi-liqo-consumer-claims", f"--user={fabric.CONSUMER_USER}")
    name = ("-n", driver.remote_namespace, "create", "rolebinding", "csi-liqo-consumer-claims-rome")
    fabric.kubectl(driver.milan, *name, *to)
    await wait_for(driver, fabric.is_ready, timeout_seconds=60)


async def test_a_virtual_node_that_two_claim_is_a_conflict_of_both(driver: fabric.Fabric) -> None:
    second = fabric.remote_cluster({})
    second["metadata"]["name"] = "turin"
    second["spec"] |= {
        "clusterID": "turin",
        "nodeSelector": {"liqo.io/remote-cluster-id": "milan"},
    }
    made = await driver.consumer.create(fabric.REMOTE_CLUSTERS, second)
    words = "node milan is claimed by RemoteCluster"
    for name in ("milan", "turin"):
        await control_planes.wait_until(
            driver.consumer,
            fabric.REMOTE_CLUSTERS,
            name,
            says("Conflict", "True", "NodeClaimedTwice", words),
        )
    path = f"{fabric.REMOTE_CLUSTERS}/turin"
    await driver.consumer.delete(path, uid=made["metadata"]["uid"])
    await wait_for(driver, fabric.is_ready)


@pytest.fixture
async def unfenced(driver: fabric.Fabric) -> AsyncIterator[None]:
    """Without the policies that refuse the deletion, as where nobody installed them.

    Both installations' go: what one that does not run counted last is as good a reason.
    """
    bindings = [f"csi-liqo-remote-clusters{suffix}" for suffix in ("", "-attach")]
    kind = "validatingadmissionpolicybinding"
    kept = fabric.kubectl(driver.rome, "get", kind, *bindings, "--ignore-not-found", "-o", "json")
    fabric.kubectl(driver.rome, "delete", kind, *bindings, "--ignore-not-found")
    yield
    there = json.loads(kept)
    for binding in there.get("items", [there]):
        binding["metadata"] = {key: binding["metadata"].get(key) for key in ("name", "labels")}
        await driver.consumer.create(BINDINGS, binding)


async def delete_remote_cluster(driver: fabric.Fabric, uid: str) -> None:
    """Delete it, as soon as the API server knows that the policy is gone."""
    async with asyncio.timeout(30):
        while True:
            try:
                await driver.consumer.delete(PATH, uid=uid)
            except api.ApiError as error:
                if error.status != 403:
                    raise
                await asyncio.sleep(0.5)
            else:
                return


async def test_a_remote_cluster_with_volumes_stays_until_they_are_gone(
    driver: fabric.Fabric, unfenced: None
) -> None:
    remote = await wait_for(driver, fabric.is_ready)
    others = remote["status"].get("volumes", 0)
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    await wait_for(driver, holds(FINALIZER))
    await wait_for(driver, lambda item: item["status"]["volumes"] == others + 1)

    await delete_remote_cluster(driver, remote["metadata"]["uid"])
    name = volume["metadata"]["name"]
    await wait_for(driver, says("Terminating", "True", "VolumesRemain", "have their home there"))
    found = await wait_for(driver, says("Ready", "False", "VolumesRemain"))
    if others < 9:
        assert name in condition(found, "Terminating")["message"]

    # It is still the way to the volume: what is there can be deleted, nothing new is made.
    await driver.claim_on("late", "milan")
    await driver.event("late", "is being deleted and takes no new volumes")
    await driver.drop("late")
    await driver.drop("data")
    await driver.volume_gone(name)
    if others:  # what other tests retain there holds it still
        await driver.consumer.merge(PATH, {"metadata": {"finalizers": None}})
    await control_planes.wait_until_gone(driver.consumer, fabric.REMOTE_CLUSTERS, "milan")
    await come_back(driver)


async def test_a_remote_cluster_whose_fence_is_open_leaves_its_volumes_behind(
    driver: fabric.Fabric,
) -> None:
    remote = await wait_for(driver, fabric.is_ready)
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    await wait_for(driver, holds(FINALIZER))
    await driver.consumer.merge(PATH, {"metadata": {"labels": {"csi.liqo.io/fence": "open"}}})
    await driver.consumer.delete(PATH, uid=remote["metadata"]["uid"])
    await control_planes.wait_until_gone(driver.consumer, fabric.REMOTE_CLUSTERS, "milan")
    assert await driver.provider.find(f"{driver.remote_claims}/data") is not None

    await come_back(driver)  # and is the way to them again
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])


async def come_back(driver: fabric.Fabric) -> None:
    """Make the RemoteCluster again; the fixture removes what it made."""
    again = fabric.remote_cluster({driver.namespace: driver.remote_namespace})
    await driver.consumer.create(fabric.REMOTE_CLUSTERS, again)
    await wait_for(driver, fabric.is_ready)


async def test_a_remote_cluster_without_volumes_is_held_by_nothing(driver: fabric.Fabric) -> None:
    others = (await wait_for(driver, fabric.is_ready))["status"].get("volumes", 0)
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    await wait_for(driver, holds(FINALIZER))
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    await wait_for(driver, lambda item: item["status"]["volumes"] == others)
    if not others:
        await wait_for(driver, lambda item: not holds(FINALIZER)(item))


async def test_nothing_is_written_while_nothing_changes(driver: fabric.Fabric) -> None:
    """A status that is written for each look would be a load on the consumer's etcd."""
    await wait_for(driver, fabric.is_ready)
    await asyncio.sleep(2)  # what the start itself brings is over
    before = await driver.consumer.get(PATH)
    await asyncio.sleep(12)  # longer than a heartbeat: the absence of a write has no event
    after = await driver.consumer.get(PATH)

    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
