"""What would take volumes with it is refused while they live there, and can be insisted on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab import control_plane
from tests import control_planes
from tests.cluster import fabric, liqo_fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

FACTS = "/api/v1/namespaces/csi-liqo-storage/configmaps"
NAME = "csi-liqo-homes"
OVERRIDE = "csi.liqo.io/fence=open"
LENT = "/api/v1/namespaces/{}/configmaps"


@pytest.fixture(scope="module")
def fenced(prepared: Planes) -> Iterator[Planes]:
    """Both clusters with every policy there is; the provider's are gone again afterwards."""
    rome, milan = prepared
    fabric.kubectl(rome, "apply", "-k", str(fabric.ROOT / "deploy/liqo"))
    fabric.kubectl(milan, "apply", "-k", str(fabric.ROOT / "deploy/provider/teardown"))
    fabric.kubectl(milan, "apply", "-f", str(liqo_fabric.MANIFESTS / "provider-rights.yaml"))
    liqo_fabric.install_liqo(rome)
    yield prepared
    liqo_fabric.remove_liqo(rome)
    fabric.kubectl(milan, "delete", "-k", str(fabric.ROOT / "deploy/provider/teardown"))


@pytest.fixture
async def beside(
    fenced: Planes, tmp_path: Path, namespace: str
) -> AsyncIterator[liqo_fabric.Beside]:
    async with liqo_fabric.running(fenced, tmp_path, namespace) as running:
        yield running


@pytest.fixture
async def driver(fenced: Planes, tmp_path: Path, namespace: str) -> AsyncIterator[fabric.Fabric]:
    async with fabric.running(*fenced, tmp_path, namespace) as running:
        yield running


def attempt(plane: control_plane.ControlPlane, *arguments: str) -> str:
    """Run kubectl without changing anything; return what it refuses with, empty when it would."""
    command = [str(fabric.BINARIES / "kubectl"), f"--kubeconfig={plane.kubeconfig}", *arguments]
    command.append("--dry-run=server")
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stderr if answer.returncode else ""


async def until_counted(driver: fabric.Fabric, key: str, number: str | None) -> None:
    """Wait until the facts have a number; None: nothing of that."""
    await control_planes.wait_until(
        driver.consumer,
        FACTS,
        NAME,
        lambda item: item is not None and (item.get("data") or {}).get(key) == number,
    )


async def test_a_remote_cluster_is_not_deleted_while_volumes_have_their_home_there(
    driver: fabric.Fabric,
) -> None:
    others = await volumes_in_milan(driver)
    delete = ("delete", "remotecluster", "milan")
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    await until_counted(driver, "cluster.milan", str(others + 1))

    refusal = attempt(driver.rome, *delete)
    assert f"{others + 1} volumes have their home in cluster milan" in refusal
    assert OVERRIDE in refusal

    fabric.kubectl(driver.rome, "label", "remotecluster", "milan", OVERRIDE)
    assert attempt(driver.rome, *delete) == ""
    fabric.kubectl(driver.rome, "label", "remotecluster", "milan", OVERRIDE.split("=")[0] + "-")

    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    await until_counted(driver, "cluster.milan", str(others) if others else None)
    if not others:
        assert attempt(driver.rome, *delete) == ""


async def test_counts_that_somebody_else_writes_are_undone(driver: fabric.Fabric) -> None:
    others = await volumes_in_milan(driver)
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    number = str(others + 1)
    await until_counted(driver, "cluster.milan", number)

    wrong = {"cluster.milan": None, f"namespace.{driver.namespace}": "7", "cluster.ghost": "1"}
    await driver.consumer.merge(f"{FACTS}/{NAME}", {"data": wrong})

    await until_counted(driver, "cluster.milan", number)
    await until_counted(driver, f"namespace.{driver.namespace}", "1")
    await until_counted(driver, "cluster.ghost", None)
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])


async def test_a_retained_volume_stands_in_the_way_too(driver: fabric.Fabric) -> None:
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    await driver.consumer.merge(f"{fabric.VOLUMES}/{name}", retain)
    await driver.drop("data")
    await control_planes.wait_until(
        driver.consumer,
        fabric.VOLUMES,
        name,
        lambda item: item is not None and item["status"]["phase"] == "Released",
    )

    assert "have their home in cluster milan" in attempt(
        driver.rome, "delete", "remotecluster", "milan"
    )
    give_back = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    await driver.consumer.merge(f"{fabric.VOLUMES}/{name}", give_back)
    await driver.volume_gone(name)


async def test_a_namespace_with_volumes_elsewhere_is_not_deleted_and_one_without_is(
    driver: fabric.Fabric,
) -> None:
    key = f"namespace.{driver.namespace}"
    delete = ("delete", "namespace", driver.namespace)
    await driver.claim_on("local", "rome-1")
    _, local = await driver.bound("local")
    assert attempt(driver.rome, *delete) == ""

    await driver.claim_on("remote", "milan")
    await driver.bound("remote")
    await until_counted(driver, key, "1")
    refusal = attempt(driver.rome, *delete)
    assert f"1 volumes of namespace {driver.namespace} have their home in remote" in refusal

    await driver.drop("remote")
    await until_counted(driver, key, None)
    assert attempt(driver.rome, *delete) == ""
    await driver.drop("local")
    await driver.volume_gone(local["metadata"]["name"])


async def test_facts_that_are_not_so_do_not_survive_a_restart(driver: fabric.Fabric) -> None:
    key = f"namespace.{driver.namespace}"
    await driver.claim_on("data", "milan")
    await driver.bound("data")
    await until_counted(driver, key, "1")

    await driver.controller.end()
    untrue = {key: "0", "namespace.gone": "7", "twins": "kept"}
    await driver.consumer.merge(f"{FACTS}/{NAME}", {"data": untrue})
    await driver.controller.start()
    await until_counted(driver, key, "1")
    await until_counted(driver, "namespace.gone", None)
    await until_counted(driver, "twins", "kept")  # others' facts are in it, too
    await driver.consumer.merge(f"{FACTS}/{NAME}", {"data": {"twins": None}})
    await driver.drop("data")


async def test_nothing_of_liqos_that_holds_volumes_is_deleted(beside: liqo_fabric.Beside) -> None:
    driver, tenant = beside.fabric, beside.tenant
    offloading = {
        "apiVersion": "offloading.liqo.io/v1beta1",
        "kind": "NamespaceOffloading",
        "metadata": {"name": "offloading"},
    }
    await driver.consumer.create(
        f"{liqo_fabric.GROUP}/namespaces/{driver.namespace}/namespaceoffloadings", offloading
    )
    slices = f"/apis/authentication.liqo.io/v1beta1/namespaces/{tenant.namespace}/resourceslices"
    await driver.consumer.create(slices, liqo_fabric.resource_slice())
    there = (
        ("-n", tenant.namespace, "delete", "resourceslice.authentication.liqo.io", "milan"),
        ("-n", tenant.namespace, "delete", "virtualnode", "milan"),
        ("-n", tenant.namespace, "delete", "namespacemap", "milan"),
        ("-n", driver.namespace, "delete", "namespaceoffloading", "offloading"),
    )
    assert attempt(driver.rome, *there[-1]) == ""
    await driver.claim_on("data", "milan")
    await driver.bound("data")
    await until_counted(driver, f"offloaded.milan.{driver.namespace}", "1")

    for arguments in there:
        assert "have their home in" in attempt(driver.rome, *arguments)
        kind, name = arguments[-2:]
        fabric.kubectl(driver.rome, *arguments[:2], "label", kind, name, OVERRIDE)
        assert attempt(driver.rome, *arguments) == ""
    fabric.kubectl(
        *(driver.rome, "-n", tenant.namespace, "label", "namespacemap", "milan"),
        "csi.liqo.io/fence-",
    )
    assert "have their home in cluster milan" in withdraw(driver, tenant)

    await driver.drop("data")
    await until_counted(driver, f"offloaded.milan.{driver.namespace}", None)
    assert withdraw(driver, tenant) == ""


def withdraw(driver: fabric.Fabric, tenant: liqo_fabric.Tenant) -> str:
    """Try to take a namespace out of the map, as Liqo does when it is no longer offloaded."""
    patch = json.dumps({"spec": {"desiredMapping": {driver.namespace: None}}})
    arguments = ("-n", tenant.namespace, "patch", "namespacemap", "milan", "--type=merge")
    return attempt(driver.rome, *arguments, f"--patch={patch}")


async def test_a_copy_of_another_consumers_map_is_that_ones_affair(
    beside: liqo_fabric.Beside,
) -> None:
    driver, tenant = beside.fabric, beside.tenant
    copied = liqo_fabric.namespace_map({"theirs": "theirs-milan"})
    copied["metadata"]["name"] = "copied"
    copied["metadata"]["labels"]["liqo.io/replication"] = "false"
    await driver.consumer.create(tenant.maps, copied)
    await driver.claim_on("data", "milan")
    await driver.bound("data")
    await until_counted(driver, f"offloaded.milan.{driver.namespace}", "1")

    delete = ("-n", tenant.namespace, "delete", "namespacemap", "copied")
    assert attempt(driver.rome, *delete) == ""
    await driver.drop("data")


async def test_a_provider_may_refuse_to_delete_a_namespace_with_a_consumers_volumes(
    beside: liqo_fabric.Beside,
) -> None:
    driver = beside.fabric
    delete = ("delete", "namespace", driver.remote_namespace)
    assert attempt(driver.milan, *delete) == ""
    await driver.claim_on("data", "milan")
    await driver.bound("data")
    await until_lent(driver, "1")
    refusal = attempt(driver.milan, *delete)
    assert "1 volumes of consumer cluster rome live in namespace" in refusal

    fabric.kubectl(driver.milan, "label", "namespace", driver.remote_namespace, OVERRIDE)
    assert attempt(driver.milan, *delete) == ""
    name = OVERRIDE.split("=")[0]
    fabric.kubectl(driver.milan, "label", "namespace", driver.remote_namespace, f"{name}-")

    await driver.drop("data")
    await until_lent(driver, "0")
    assert attempt(driver.milan, *delete) == ""


async def test_where_a_provider_grants_no_count_volumes_are_made_as_ever(
    driver: fabric.Fabric,
) -> None:
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])

    listed = await driver.provider.get(LENT.format(driver.remote_namespace))
    assert {item["metadata"]["name"] for item in listed["items"]} == {"kube-root-ca.crt"}


async def until_lent(driver: fabric.Fabric, number: str) -> None:
    """Wait until the provider's namespace has a count of the consumer's volumes."""
    await control_planes.wait_until(
        driver.provider,
        LENT.format(driver.remote_namespace),
        "csi-liqo-rome",
        lambda item: item is not None and item["data"] == {"twins": number},
    )


async def volumes_in_milan(driver: fabric.Fabric) -> int:
    """Return how many volumes tests before this one have left in the provider."""
    found = await driver.consumer.find(f"{FACTS}/{NAME}")
    return int(((found or {}).get("data") or {}).get("cluster.milan", "0"))
