"""`csi-liqo doctor`: each thing that can be wrong is found, with a remedy, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator, Iterator

import pytest
import yaml

from tests.cli import conftest
from tests.cluster import fabric


@pytest.fixture
async def healthy(desk: conftest.Desk) -> AsyncIterator[conftest.Desk]:
    """A desk at which nothing is wrong: nothing of the driver is meant to run, and nothing does."""
    rome = desk.rome
    fabric.kubectl(rome, "-n", "csi-liqo", "scale", "deployment", "--all", "--replicas=0")
    nowhere = json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"no": "where"}}}}})
    fabric.kubectl(rome, "-n", "csi-liqo", "patch", "daemonset", "csi-liqo-node", "-p", nowhere)
    config = ("configmap", "csi-liqo")
    fabric.kubectl(rome, "-n", "csi-liqo", "create", *config, "--from-literal=clusterID=rome")
    try:
        yield desk
    finally:
        fabric.kubectl(rome, "-n", "csi-liqo", "delete", *config)


@dataclasses.dataclass(frozen=True)
class Defect:
    """Something that is wrong: how to make it so, what is said of it, how to mend it."""

    make: str
    mend: str
    check: str
    words: str
    level: str = "error"
    manifest: fabric.Json | None = None


ATTACHING = [
    {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": "attaching.example.com"},
        "spec": {"attachRequired": True},
    },
    fabric.virtual_class("attached", {}, provisioner="attaching.example.com"),
    fabric.virtual_class("broken", {"localClass": "attached"}),
]

DEFECTS = {
    "no-cluster-id": Defect(
        "-n csi-liqo delete configmap csi-liqo",
        "-n csi-liqo create configmap csi-liqo --from-literal=clusterID=rome",
        "installation",
        "has no clusterID",
    ),
    "another-cluster-id": Defect(
        "label --overwrite node rome-1 topology.csi.liqo.io/cluster=paris",
        "label --overwrite node rome-1 topology.csi.liqo.io/cluster=rome",
        "cluster id",
        "node rome-1 has label topology.csi.liqo.io/cluster=paris",
    ),
    "no-real-class": Defect(
        "create -f -",
        "delete storageclass broken",
        "classes",
        "StorageClass broken: localClass nothing does not exist",
        manifest=fabric.virtual_class("broken", {"localClass": "nothing"}),
    ),
    "unknown-parameter": Defect(
        "create -f -",
        "delete storageclass broken",
        "classes",
        "unknown parameters: locaClass",
        manifest=fabric.virtual_class("broken", {"locaClass": "hostpath"}),
    ),
    "binds-at-once": Defect(
        "create -f -",
        "delete storageclass broken",
        "classes",
        "StorageClass broken binds at once",
        level="warning",
        manifest=fabric.virtual_class("broken", {}, volumeBindingMode="Immediate"),
    ),
    "virtual-behind-virtual": Defect(
        "create -f -",
        "delete storageclass broken",
        "classes",
        "StorageClass broken leads to csi-liqo, which is virtual itself",
        manifest=fabric.virtual_class("broken", {"localClass": "csi-liqo"}),
    ),
    "driver-that-attaches": Defect(
        "create -f -",
        "delete -f -",
        "classes",
        "whose driver attaching.example.com must attach, and csi.liqo.io does not",
        manifest={"apiVersion": "v1", "kind": "List", "items": ATTACHING},
    ),
    "node-without-driver": Defect(
        'patch csinode rome-2 --type=merge -p {"spec":{"drivers":null}}',
        "apply -f -",
        "nodes",
        "node rome-2 has no entry of driver csi.liqo.io in its CSINode",
        manifest=list(fabric.node("rome-2", "rome"))[1],
    ),
    "unknown-virtual-node": Defect(
        "label node milan liqo.io/remote-cluster-id-",
        "label node milan liqo.io/remote-cluster-id=milan",
        "nodes",
        "virtual node milan stands for no RemoteCluster",
        level="warning",
    ),
}


@contextlib.contextmanager
def made(desk: conftest.Desk, defect: Defect) -> Iterator[None]:
    text = yaml.safe_dump(defect.manifest) if defect.manifest else ""
    fabric.kubectl(desk.rome, *defect.make.split(" "), text=text)
    try:
        yield
    finally:
        fabric.kubectl(desk.rome, *defect.mend.split(" "), text=text)


async def test_where_nothing_is_wrong_nothing_is_found(
    driver: fabric.Fabric, healthy: conftest.Desk
) -> None:
    async with asyncio.timeout(60):
        done = await healthy("doctor", "-o", "json")
        while done.code:  # capacities, labels and conditions come one after the other
            await asyncio.sleep(0.5)
            done = await healthy("doctor", "-o", "json")

    assert {item["level"] for item in done.document} == {"ok"}, done.out
    table = await healthy("doctor")
    assert table.rows[0].keys() == {"level", "check", "finding", "remedy"}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
async def test_what_is_wrong_is_found_with_a_remedy(healthy: conftest.Desk, defect: Defect) -> None:
    with made(healthy, defect):
        done = await healthy("doctor", "-o", "json")

    found = [item for item in done.document if defect.words in item["finding"]]
    assert found, done.out
    assert found[0]["check"] == defect.check
    assert found[0]["level"] == defect.level
    assert found[0]["remedy"]
    errors = [item for item in done.document if item["level"] == "error"]
    assert done.code == (1 if errors else 0)


async def test_a_right_that_was_taken_away_is_found_with_its_cost(
    healthy: conftest.Desk,
) -> None:
    await healthy.add(
        "--namespace=a=lent-a", "--grant=offered-classes,volumes,events,capacity,repair,teardown"
    )
    binding = ("-n", "lent-a", "delete", "rolebinding", "csi-liqo-consumer-claims-rome")
    fabric.kubectl(healthy.milan, *binding)

    done = await healthy("doctor", "-o", "json")

    said = {item["check"]: item for item in done.document if "does not grant" in item["finding"]}
    assert (
        "claims (get, list, watch, create, patch, delete) in lent-a"
        in (said["permissions"]["finding"])
    )
    assert "csi-liqo peer add milan" in said["permissions"]["remedy"]
    assert done.code == 1


async def test_a_secret_that_is_gone_is_found(healthy: conftest.Desk) -> None:
    await healthy.add("--namespace=a")
    fabric.kubectl(healthy.rome, "-n", "csi-liqo", "delete", "secret", "peer-milan")

    done = await healthy("doctor")

    assert "Secret csi-liqo/peer-milan of RemoteCluster milan has no key kubeconfig" in done.out
    assert done.code == 1


async def test_volumes_that_lost_their_twins_and_twins_their_volumes_are_found(
    driver: fabric.Fabric, healthy: conftest.Desk
) -> None:
    await driver.claim_on("here", "rome-1")
    await driver.claim_on("there", "milan")
    volumes = [(await driver.bound(name))[1] for name in ("here", "there")]
    await driver.controller.end()  # nobody repairs what follows
    try:
        for volume, side in zip(volumes, (healthy.rome, healthy.milan), strict=True):
            twin = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
            unprotect = '[{"op":"remove","path":"/metadata/finalizers"}]'
            about = ("-n", twin[0], "pvc", twin[1])
            fabric.kubectl(side, "patch", *about, "--type=json", "-p", unprotect)
            fabric.kubectl(side, "delete", *about)

        done = await healthy("doctor", "-o", "json")
    finally:
        await driver.controller.start()

    said = [item["finding"] for item in done.document if item["check"] == "volumes"]
    assert any("its twin csi-liqo-storage/" in text and "is gone" in text for text in said)
    assert any(f"its twin {driver.remote_namespace}/there in cluster milan" in t for t in said)


async def test_what_may_not_be_read_is_told_and_no_error(healthy: conftest.Desk) -> None:
    nobody: pathlib.Path = healthy.rome.kubeconfig_for("nobody-at-all")

    done = await conftest.run("doctor", "-o", "json", kubeconfig=nobody)

    unseen = [item["finding"] for item in done.document if item["level"] == "unseen"]
    assert any("persistentvolumes cannot be read" in text for text in unseen)
    assert done.code == 0
