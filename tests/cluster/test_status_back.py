"""What becomes of a twin is seen on the virtual volume and claim, at once and once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from lab import api, control_plane
from tests import control_planes
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

SOON_SECONDS: Final = 2.0
"""Within this time what happened to a twin is seen."""

HEALTH: Final = "csi.liqo.io/health"
SHOWN: Final = (
    "csi.liqo.io/real-class",
    "csi.liqo.io/real-volume",
    "csi.liqo.io/real-capacity",
    "csi.liqo.io/real-phase",
    HEALTH,
)


def wait_for_pods(remote: fabric.Json) -> None:
    """Let the provider's volumes wait for their first consumer."""
    remote["spec"]["classes"] = [{"virtual": "csi-liqo", "offered": "hostpath-wffc"}]


@pytest.fixture
async def waiting(prepared: Planes, tmp_path: Path, namespace: str) -> AsyncIterator[fabric.Fabric]:
    """The driver with a provider whose twins are not bound before a pod runs there."""
    async with fabric.running(*prepared, tmp_path, namespace, change=wait_for_pods) as running:
        yield running


def real_volume(name: str, twin: fabric.Json, size: str) -> fabric.Json:
    """Return a volume of the provider that only this twin can have."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": twin["spec"]["storageClassName"],
            "hostPath": {"path": f"/mnt/{name}"},
            "claimRef": {
                "namespace": twin["metadata"]["namespace"],
                "name": twin["metadata"]["name"],
            },
        },
    }


def shown(thing: fabric.Json | None) -> dict[str, str]:
    annotations = (thing or {}).get("metadata", {}).get("annotations", {})
    return {key: annotations[key] for key in SHOWN if key in annotations}


async def soon(
    server: api.Api, collection: str, name: str, condition: Callable[[fabric.Json | None], bool]
) -> fabric.Json:
    found = await control_planes.wait_until(
        server, collection, name, condition, timeout_seconds=SOON_SECONDS
    )
    assert found is not None
    return found


def has_health(value: str) -> Callable[[fabric.Json | None], bool]:
    return lambda item: shown(item).get(HEALTH) == value


async def events_on(driver: fabric.Fabric, uid: str, reason: str) -> list[fabric.Json]:
    """Return the events of a reason on an object, in any namespace."""
    query = {"fieldSelector": f"involvedObject.uid={uid},reason={reason}"}
    listed = await driver.consumer.get("/api/v1/events", query)
    items: list[fabric.Json] = listed["items"]
    return items


async def event_soon(driver: fabric.Fabric, uid: str, reason: str, seconds: float) -> fabric.Json:
    """Wait for the first event of a reason on an object."""
    query = {"fieldSelector": f"involvedObject.uid={uid},reason={reason}"}
    async with asyncio.timeout(seconds):
        listed = await driver.consumer.get("/api/v1/events", query)
        for item in listed["items"]:
            return dict(item)
        query["resourceVersion"] = listed["metadata"]["resourceVersion"]
        watching = driver.consumer.watch("/api/v1/events", query, silence_seconds=seconds)
        async for seen in watching:
            if seen["type"] == "ADDED":
                return dict(seen["object"])
    raise AssertionError("the watch ended")


async def remote_volume_is_bound(driver: fabric.Fabric, *, size: str = "64Mi") -> fabric.Json:
    """Make a remote claim and bind its twin to a volume of a size; returns that volume."""
    twin = await driver.provider.get(f"{driver.remote_claims}/data")
    name = f"real-{twin['metadata']['uid']}"
    made = await driver.provider.create(fabric.VOLUMES, real_volume(name, twin, size))
    await control_planes.wait_until(
        driver.provider,
        driver.remote_claims,
        "data",
        lambda item: (item or {}).get("status", {}).get("phase") == "Bound",
    )
    return made


async def take_away(driver: fabric.Fabric, volume: fabric.Json, real: fabric.Json) -> None:
    """End a claim; the real volume made by hand is its administrator's to delete."""
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    path = f"{fabric.VOLUMES}/{real['metadata']['name']}"
    await driver.provider.delete(path, uid=real["metadata"]["uid"])
    await control_planes.wait_until_gone(driver.provider, fabric.VOLUMES, real["metadata"]["name"])


async def test_what_a_remote_twin_got_is_seen_within_two_seconds_of_its_binding(
    waiting: fabric.Fabric,
) -> None:
    before = await waiting.snapshot()
    await waiting.claim_on("data", "milan")
    claim, volume = await waiting.bound("data")
    assert shown(volume) == {}
    assert shown(claim) == {}
    name = volume["metadata"]["name"]

    real = await remote_volume_is_bound(waiting, size="100Mi")
    started = time.monotonic()
    volume = await soon(waiting.consumer, fabric.VOLUMES, name, has_health("Healthy"))
    claim = await soon(waiting.consumer, waiting.claims, "data", has_health("Healthy"))

    assert time.monotonic() - started < SOON_SECONDS
    facts = {
        "csi.liqo.io/real-class": "hostpath-wffc",
        "csi.liqo.io/real-volume": real["metadata"]["name"],
        "csi.liqo.io/real-capacity": "100Mi",
        "csi.liqo.io/real-phase": "Bound",
        HEALTH: "Healthy",
    }
    assert shown(volume) == facts
    assert shown(claim) == facts
    assert volume["spec"]["capacity"] == {"storage": "100Mi"}
    assert claim["status"]["capacity"] == {"storage": "100Mi"}
    assert claim["spec"]["resources"]["requests"] == {"storage": "64Mi"}
    await take_away(waiting, volume, real)
    assert await waiting.settled(before) == []


async def test_a_local_volume_is_left_as_it_is_while_all_is_well(driver: fabric.Fabric) -> None:
    await driver.claim_on("other", "milan")
    await driver.claim_on("data", "rome-1")
    claim, volume = await driver.bound("data")
    await control_planes.wait_until(  # by then the reconciler has had its turn with both
        driver.consumer, driver.claims, "other", has_health("Healthy")
    )

    assert shown(await driver.consumer.get(f"{driver.claims}/data")) == {}
    assert shown(await driver.consumer.get(f"{fabric.VOLUMES}/{volume['metadata']['name']}")) == {}
    assert claim["status"]["capacity"] == {"storage": "64Mi"}
    for name in ("data", "other"):
        await driver.drop(name)


async def complain(driver: fabric.Fabric, twin: fabric.Json, number: int) -> None:
    """Have the provider's provisioner say something against a twin."""
    namespace = twin["metadata"]["namespace"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"complaint-{number}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace,
            "name": twin["metadata"]["name"],
            "uid": twin["metadata"]["uid"],
        },
        "type": "Warning",
        "reason": "ProvisioningFailed",
        "message": f"the array is full, try {number}",
        "source": {"component": "somebody"},
        "count": 1,
    }
    await driver.provider.create(f"/api/v1/namespaces/{namespace}/events", event)


async def stir(driver: fabric.Fabric, number: int) -> None:
    """Change a twin, so that it is looked at again."""
    patch = {"metadata": {"annotations": {"example.com/stirred": str(number)}}}
    await driver.provider.merge(f"{driver.remote_claims}/data", patch)


async def test_what_is_said_against_a_waiting_twin_is_one_event_on_its_claim(
    waiting: fabric.Fabric,
) -> None:
    await waiting.claim_on("data", "milan")
    claim, volume = await waiting.bound("data")
    uid = claim["metadata"]["uid"]
    twin = await waiting.provider.get(f"{waiting.remote_claims}/data")
    await complain(waiting, twin, 1)
    event = await event_soon(waiting, uid, "TwinWarning", 15)
    assert event["type"] == "Warning"
    assert "ProvisioningFailed: the array is full" in event["message"]
    assert f"{waiting.remote_namespace}/data in cluster milan" in event["message"]

    for number in range(2, 12):
        await complain(waiting, twin, number)
        await stir(waiting, number)
    real = await remote_volume_is_bound(waiting)
    await control_planes.wait_until(waiting.consumer, waiting.claims, "data", has_health("Healthy"))

    told = await events_on(waiting, uid, "TwinWarning")
    assert [item["count"] for item in told] == [1]
    await take_away(waiting, volume, real)


async def test_a_twins_own_conditions_speak_where_its_events_may_not_be_read(
    waiting: fabric.Fabric,
) -> None:
    where = ("--namespace", waiting.remote_namespace)
    grant = "csi-liqo-consumer-events-rome"
    fabric.kubectl(waiting.milan, "delete", "rolebinding", grant, *where)
    await waiting.claim_on("data", "milan")
    claim, _ = await waiting.bound("data")
    condition = {"type": "ControllerResizeError", "status": "True", "message": "no room"}
    status = f"{waiting.remote_claims}/data/status"
    await waiting.provider.merge(status, {"status": {"conditions": [condition]}})

    event = await event_soon(waiting, claim["metadata"]["uid"], "TwinWarning", 10)
    assert "ControllerResizeError: no room" in event["message"]

    await waiting.provider.merge(status, {"status": {"conditions": None}})

    def says_the_gap(remote: fabric.Json | None) -> bool:
        told = (remote or {}).get("status", {}).get("conditions", [])
        return any("csi-liqo-consumer-events" in item["message"] for item in told)

    await control_planes.wait_until(waiting.consumer, fabric.REMOTE_CLUSTERS, "milan", says_the_gap)
    await waiting.drop("data")


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_twin_that_someone_deletes_is_reported_at_once_and_once(
    driver: fabric.Fabric, node: str
) -> None:
    before = await driver.snapshot()
    await driver.claim_on("data", node)
    claim, volume = await driver.bound("data")
    namespace, name, uid = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    home = driver.provider if node == "milan" else driver.consumer
    if node == "milan":
        await control_planes.wait_until(
            driver.consumer, driver.claims, "data", has_health("Healthy")
        )

    path = f"{fabric.claims_in(namespace)}/{name}"
    if node != "milan":
        await home.merge(path, fabric.OPENED)
    await home.delete(path, uid=uid)
    started = time.monotonic()
    volume_name = volume["metadata"]["name"]
    await soon(driver.consumer, fabric.VOLUMES, volume_name, has_health("TwinDeleted"))
    await soon(driver.consumer, driver.claims, "data", has_health("TwinDeleted"))
    for told in (claim, volume):
        event = await event_soon(driver, told["metadata"]["uid"], "TwinDeleted", SOON_SECONDS)
        assert "was deleted by someone else; its finalizer holds it" in event["message"]
        assert "csi-liqo doctor --repair" in event["message"]
    assert time.monotonic() - started < 2 * SOON_SECONDS

    await driver.controller.end()
    await driver.controller.start()
    await driver.claim_on("later", "rome-2")
    await driver.bound("later")
    told_events = await events_on(driver, claim["metadata"]["uid"], "TwinDeleted")
    assert [item["count"] for item in told_events] == [1]
    for gone in ("data", "later"):
        await driver.drop(gone)
    await driver.volume_gone(volume_name)
    assert await driver.settled(before) == []


async def test_a_twin_lost_while_the_controller_was_away_is_reported_when_it_is_back(
    driver: fabric.Fabric,
) -> None:
    await driver.claim_on("data", "milan")
    claim, volume = await driver.bound("data")
    await control_planes.wait_until(driver.consumer, driver.claims, "data", has_health("Healthy"))
    path = f"{driver.remote_claims}/data"
    twin = await driver.provider.get(path)

    await driver.controller.end()
    await driver.provider.merge(path, {"metadata": {"finalizers": None}})
    await driver.provider.delete(path, uid=twin["metadata"]["uid"])
    await control_planes.wait_until_gone(driver.provider, driver.remote_claims, "data")
    await driver.controller.start()

    await control_planes.wait_until(
        driver.consumer, fabric.VOLUMES, volume["metadata"]["name"], has_health("TwinGone")
    )
    event = await event_soon(driver, claim["metadata"]["uid"], "TwinGone", 10)
    assert "its finalizer was taken off by someone else" in event["message"]
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
