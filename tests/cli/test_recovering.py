"""`where --orphans|--retained`, `adopt` and `doctor --repair`, over the driver as it runs."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests import control_planes
from tests.cli import conftest
from tests.cluster import fabric


async def test_what_was_kept_is_listed_and_comes_back_to_a_new_claim(
    driver: fabric.Fabric, desk: conftest.Desk
) -> None:
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    twin = await desk.provider.get(f"{driver.remote_claims}/data")
    keep = json.dumps({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    fabric.kubectl(desk.rome, "patch", "pv", name, "-p", keep)
    await driver.drop("data")
    await control_planes.wait_until(
        desk.consumer, fabric.VOLUMES, name, lambda v: (v or {})["status"]["phase"] == "Released"
    )

    listed = await desk("where", "--retained", "--consumer-id=rome", "-o", "json")

    assert listed.err == ""
    row = next(row for row in listed.document if row["volume"] == name)
    assert (row["cluster"], row["twin"]) == ("milan", f"{driver.remote_namespace}/data")
    assert (row["state"], row["claim"]) == ("retained", f"{driver.namespace}/data")

    done = await desk(
        "adopt", "milan", row["twin"], "--consumer-id=rome", "--reclaim-policy=Delete"
    )

    assert done.code == 0, done.err
    assert f"it is reserved for claim {driver.namespace}/data" in done.out
    assert f"it was there and stays Retain; once it is bound: kubectl patch pv {name}" in done.out
    await desk.consumer.create(driver.claims, fabric.claim("data", volumeName=name))
    _, again = await driver.bound("data")
    assert again["spec"]["csi"]["volumeAttributes"] == volume["spec"]["csi"]["volumeAttributes"]
    there = await desk.provider.get(f"{driver.remote_claims}/data")
    assert there["metadata"]["uid"] == twin["metadata"]["uid"]
    go = json.dumps({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    fabric.kubectl(desk.rome, "patch", "pv", name, "-p", go)


async def test_a_twin_that_nobody_uses_is_listed_as_abandoned_and_goes_on_command(
    driver: fabric.Fabric, desk: conftest.Desk
) -> None:
    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    twin = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    await driver.controller.end()  # who removes its objects by force, does it behind its back
    name = volume["metadata"]["name"]
    await driver.release("data")
    for kind, thing, *where in (("pvc", "data", "-n", driver.namespace), ("pv", name)):
        unprotect = '{"metadata":{"finalizers":null}}'
        fabric.kubectl(desk.rome, *where, "delete", kind, thing, "--wait=false")
        found = fabric.kubectl(desk.rome, *where, "get", kind, thing, "--ignore-not-found")
        if found:
            fabric.kubectl(desk.rome, *where, "patch", kind, thing, "-p", unprotect)
    rows = (await desk("where", "--orphans", "--consumer-id=rome")).rows
    await driver.controller.start()

    reference = f"{twin[0]}/{twin[1]}"
    done = await desk("dispose", "rome", reference, "--consumer-id=rome")
    assert done.code == 1, "nobody said yes"
    assert "Delete it for good?" in done.out
    assert (
        "deletionTimestamp"
        not in (await desk.consumer.get(f"{driver.twins}/{twin[1]}"))["metadata"]
    )
    done = await desk("dispose", "rome", reference, "--consumer-id=rome", "--yes")
    assert done.code == 0, done.err
    assert done.out.endswith(f"twin {reference} in cluster rome is gone\n")
    await control_planes.wait_until_gone(desk.consumer, driver.twins, twin[1])

    row = next(row for row in rows if row["twin"] == reference)
    assert (row["cluster"], row["state"]) == ("rome", "abandoned")
    assert row["claim"] == f"{driver.namespace}/data"


async def test_a_twin_that_somebody_deleted_is_repaired_on_command(
    driver: fabric.Fabric, desk: conftest.Desk
) -> None:
    await driver.claim_on("data", "rome-2")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    twin = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    real = (await desk.consumer.get(f"{driver.twins}/{twin[1]}"))["spec"]["volumeName"]
    about = ("-n", twin[0], "pvc", twin[1])
    fabric.kubectl(desk.rome, "label", *about, "csi.liqo.io/fence=open")
    fabric.kubectl(desk.rome, "delete", *about, "--wait=false")

    async with asyncio.timeout(30):
        state = ""
        while state != "TwinDeleted":  # the controller says so on the volume
            [row] = (await desk("where", "-n", driver.namespace)).rows
            state = row["state"]

    done = await desk("doctor", "--repair", "--consumer-id=rome", "-o", "json")

    assert f"volume {name}: twin {twin[0]}/{twin[1]}" in done.err
    again = await desk.consumer.get(f"{driver.twins}/{twin[1]}")
    assert again["metadata"]["uid"] != twin[2]
    assert "deletionTimestamp" not in again["metadata"]
    assert again["spec"]["volumeName"] == real
    assert not [item for item in done.document if name in item["finding"]], done.out
    [row] = (await desk("where", "-n", driver.namespace)).rows
    assert row["state"] == "Bound"


async def test_a_twin_in_use_is_not_disposed_of(driver: fabric.Fabric, desk: conftest.Desk) -> None:
    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    namespace, name, _ = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")

    done = await desk("dispose", "rome", f"{namespace}/{name}", "--consumer-id=rome", "--yes")

    assert done.code == 1
    assert f"belongs to PersistentVolume {volume['metadata']['name']}" in done.err
    twin = await desk.consumer.get(f"{driver.twins}/{name}")
    assert "deletionTimestamp" not in twin["metadata"]


@pytest.mark.parametrize("command", ["adopt", "dispose"])
async def test_a_twin_that_is_not_there_can_neither_be_adopted_nor_disposed_of(
    driver: fabric.Fabric, desk: conftest.Desk, command: str
) -> None:
    done = await desk(command, "milan", f"{driver.remote_namespace}/none", "--consumer-id=rome")

    assert done.code == 1
    assert done.err == (
        f"csi-liqo: there is no claim {driver.remote_namespace}/none in cluster milan\n"
    )
