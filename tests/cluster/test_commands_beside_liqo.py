"""The commands see the providers that Liqo describes, as the controller does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import control_plane
from tests import control_planes
from tests.cluster import fabric, liqo_fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]
CONSUMER = "--consumer-id=rome"


@pytest.fixture(scope="module")
def with_liqo(prepared: Planes) -> Iterator[Planes]:
    with liqo_fabric.installed(*prepared):
        yield prepared


@pytest.fixture
async def beside(
    with_liqo: Planes, tmp_path: Path, namespace: str
) -> AsyncIterator[liqo_fabric.Beside]:
    async with liqo_fabric.running(with_liqo, tmp_path, namespace) as running:
        yield running


async def run(driver: fabric.Fabric, *arguments: str) -> tuple[Any, str]:
    """Run a command that prints JSON; returns what it printed, and what it complained of."""
    _, told, complaint = await fabric.program(driver.rome, *arguments, "--output=json")
    assert told, complaint
    return json.loads(told), complaint


async def test_what_was_kept_with_liqos_provider_is_listed_and_adopted(
    beside: liqo_fabric.Beside,
) -> None:
    driver = beside.fabric
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    await set_policy(driver, name, "Retain")
    await driver.drop("data")
    await control_planes.wait_until(
        driver.consumer, fabric.VOLUMES, name, lambda v: (v or {})["status"]["phase"] == "Released"
    )

    # What describes providers is read from the installation, and an option outdoes it.
    listed, complaint = await run(driver, "where", "--retained", CONSUMER)
    unseen, _ = await run(driver, "where", "--retained", CONSUMER, "--remote-clusters=csi-liqo")

    row = next(row for row in listed if row["volume"] == name)
    assert (row["cluster"], row["twin"]) == ("milan", f"{driver.remote_namespace}/data")
    assert complaint == ""
    assert not [row for row in unseen if row["volume"] == name]

    code, told, complaint = await fabric.program(
        driver.rome, "adopt", "milan", row["twin"], CONSUMER
    )

    assert code == 0, complaint
    assert f"it is reserved for claim {driver.namespace}/data" in told
    await driver.consumer.create(driver.claims, fabric.claim("data", volumeName=name))
    await driver.bound("data")
    await set_policy(driver, name, "Delete")


async def test_the_doctor_looks_at_liqos_provider_and_names_liqos_remedies(
    beside: liqo_fabric.Beside,
) -> None:
    driver = beside.fabric
    await beside.tenant.said("Connected", "storage of cluster milan")

    found, _ = await run(driver, "doctor", CONSUMER)

    by = f"Liqo's VirtualNode {beside.tenant.namespace}/milan"
    said = {item["finding"]: item for item in found if by in item["finding"]}
    assert said, found
    assert {item["level"] for item in said.values()} == {"warning"}
    assert not any("csi-liqo peer" in item["remedy"] for item in said.values())
    missing = next(item for text, item in said.items() if "grant offered-classes" in text)
    command = missing["remedy"].partition("kubectl create ")[2]
    assert command == (
        "clusterrolebinding csi-liqo-consumer-offered-classes-rome-by-liqo "
        "--clusterrole=csi-liqo-consumer-offered-classes --group=rome"
    )
    fabric.kubectl(driver.milan, "create", *command.split(" "))
    try:
        found, _ = await run(driver, "doctor", CONSUMER)
    finally:
        role = "csi-liqo-consumer-offered-classes-rome-by-liqo"
        fabric.kubectl(driver.milan, "delete", "clusterrolebinding", role)
    assert not [item for item in found if "grant offered-classes" in item["finding"]]


async def test_a_credential_of_liqos_that_is_refused_is_found(beside: liqo_fabric.Beside) -> None:
    await beside.tenant.renew(liqo_fabric.bad_kubeconfig(beside.fabric.milan))
    await beside.tenant.said("Unauthorized", "storage of cluster milan")

    found, _ = await run(beside.fabric, "doctor", CONSUMER)

    errors = [item for item in found if item["level"] == "error"]
    node = [item for item in errors if "virtual node milan: Unauthorized" in item["finding"]]
    credential = [item for item in errors if "Liqo's VirtualNode" in item["finding"]]
    assert node
    assert credential
    assert all("liqoctl info peer milan" in item["remedy"] for item in (*node, *credential))
    await beside.tenant.renew(liqo_fabric.liqo_kubeconfig(beside.fabric.milan))
    await beside.tenant.said("Connected", "storage of cluster milan")


async def set_policy(driver: fabric.Fabric, name: str, policy: str) -> None:
    path = f"{fabric.VOLUMES}/{name}"
    await driver.consumer.merge(path, {"spec": {"persistentVolumeReclaimPolicy": policy}})
