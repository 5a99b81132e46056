"""`csi-liqo doctor`: each thing that can be wrong is found, with a remedy, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import yaml

from csi_liqo.service.tools.doctor import storage
from tests import control_planes
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


async def test_volumes_that_lost_their_twins_are_told_once_and_with_one_remedy_by_whoever_tells(
    driver: fabric.Fabric, healthy: conftest.Desk
) -> None:
    await driver.claim_on("here", "rome-1")
    await driver.claim_on("there", "milan")
    volumes = [(await driver.bound(name))[1] for name in ("here", "there")]
    binding = "csi-liqo-consumer-repair-rome"
    fabric.kubectl(healthy.milan, "delete", "clusterrolebinding", binding)
    assert not [item for item in (await findings(healthy)) if "grant repair" in item["finding"]]
    await driver.controller.end()  # nobody says so on the volumes
    try:
        for volume, side in zip(volumes, (healthy.rome, healthy.milan), strict=True):
            twin = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
            unprotect = '[{"op":"remove","path":"/metadata/finalizers"}]'
            about = ("-n", twin[0], "pvc", twin[1])
            fabric.kubectl(side, "label", *about, "csi.liqo.io/fence=open")
            fabric.kubectl(side, "patch", *about, "--type=json", "-p", unprotect)
            fabric.kubectl(side, "delete", *about)

        found = await findings(healthy)
    finally:
        await driver.controller.start()

    said = [item for item in found if item["check"] == "volumes"]
    assert len(said) == 2
    assert any("its twin csi-liqo-storage/" in item["finding"] for item in said)
    there = f"its twin {driver.remote_namespace}/there in cluster milan is gone"
    assert any(there in item["finding"] for item in said)
    assert {item["remedy"] for item in said} == {storage.REMEDIES["TwinGone"]}
    [missing] = [item for item in found if "does not grant repair" in item["finding"]]
    assert missing["remedy"].endswith("--grant repair")

    for volume in volumes:
        name = volume["metadata"]["name"]
        await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, says_gone)
    said = [item for item in await findings(healthy) if item["check"] == "volumes"]
    assert sorted(item["finding"] for item in said) == sorted(
        f"volume {volume['metadata']['name']} is TwinGone" for volume in volumes
    )
    assert {item["remedy"] for item in said} == {storage.REMEDIES["TwinGone"]}


def says_gone(volume: fabric.Json | None) -> bool:
    annotations = (volume or {"metadata": {}})["metadata"].get("annotations") or {}
    return annotations.get("csi.liqo.io/health") == "TwinGone"


async def findings(desk: conftest.Desk, *more: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (await desk("doctor", "-o", "json", *more)).document
    assert all(item["remedy"] for item in found if item["level"] != "ok"), found
    return found


async def test_what_is_granted_unasked_is_no_option_of_the_remedy(healthy: conftest.Desk) -> None:
    await healthy.add("--namespace=a=lent-a")
    for what, *where in (
        ("clusterrolebinding/csi-liqo-consumer-identity-rome",),
        ("rolebinding/csi-liqo-token-rome", "-n", "csi-liqo-consumers"),
        ("rolebinding/csi-liqo-consumer-claims-rome", "-n", "lent-a"),
    ):
        fabric.kubectl(healthy.milan, *where, "delete", what)

    said = [item for item in await findings(healthy) if "does not grant" in item["finding"]]

    remedies = {item["finding"].split("grant ")[1].split(" ")[0]: item["remedy"] for item in said}
    add = "csi-liqo peer add milan --provider-kubeconfig FILE"
    assert remedies == {
        "claims": add,
        "identity": add,
        "token": add,
        "offered-classes": f"{add} --grant offered-classes",
        "volumes": f"{add} --grant volumes",
        "capacity": f"{add} --grant capacity",
        "events": f"{add} --grant events",
        "teardown": f"{add} --grant teardown",
    }
    await healthy.add()
    said = [item for item in await findings(healthy) if "does not grant" in item["finding"]]
    assert {item["level"] for item in said} == {"warning"}


async def test_it_is_told_when_no_controller_acts(
    driver: fabric.Fabric, healthy: conftest.Desk
) -> None:
    assert not [item for item in await findings(healthy) if "Lease" in item["finding"]]

    await driver.controller.end(signal.SIGTERM)

    try:
        said = [item for item in await findings(healthy) if "Lease" in item["finding"]]
    finally:
        await driver.controller.start()
    assert [item["check"] for item in said] == ["installation"]
    text = "Lease csi.liqo.io-controller is held by nobody: no reconciler acts"
    assert said[0]["finding"] == text


async def test_a_retained_twin_is_as_it_was_meant(
    driver: fabric.Fabric, healthy: conftest.Desk
) -> None:
    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    name, twin = volume["metadata"]["name"], volume["spec"]["csi"]["volumeAttributes"]["twin"]
    keep = json.dumps({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    fabric.kubectl(healthy.rome, "patch", "pv", name, "-p", keep)
    await driver.drop("data")
    await control_planes.wait_until(
        driver.consumer, driver.twins, twin.split("/")[1], remembers_its_volume
    )
    fabric.kubectl(healthy.rome, "delete", "pv", name)

    kept = [item for item in await findings(healthy) if item["check"] == "twins"]

    assert [item["level"] for item in kept] == ["ok"]
    about = ("-n", "csi-liqo-storage", "pvc", twin.split("/")[1])
    fabric.kubectl(healthy.rome, "label", *about, "csi.liqo.io/fence=open")
    fabric.kubectl(healthy.rome, "annotate", *about, "csi.liqo.io/retained-")
    left = [item for item in await findings(healthy) if item["check"] == "twins"]
    assert "holds data and no virtual volume names it" in left[0]["finding"]
    fabric.kubectl(healthy.rome, "patch", *about, "-p", '{"metadata":{"finalizers":null}}')
    fabric.kubectl(healthy.rome, "delete", *about)


def remembers_its_volume(twin: fabric.Json | None) -> bool:
    return "csi.liqo.io/retained" in (twin or {"metadata": {}})["metadata"].get("annotations", {})


async def test_what_may_not_be_read_is_told_and_no_error(healthy: conftest.Desk) -> None:
    nobody: pathlib.Path = healthy.rome.kubeconfig_for("nobody-at-all")

    done = await conftest.run("doctor", "-o", "json", kubeconfig=nobody)

    unseen = [item["finding"] for item in done.document if item["level"] == "unseen"]
    assert any("persistentvolumes cannot be read" in text for text in unseen)
    assert done.code == 0
