"""A claim's labels and annotations reach its twin, the twin's come back, none is forged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import control_planes
from tests.cluster import fabric

MARKS = {
    "labels": {
        "app": "ledger",
        "app.kubernetes.io/name": "ledger",
        "csi.liqo.io/consumer": "forged",
        "offloading.liqo.io/origin": "forged",
    },
    "annotations": {
        "nfs.example.com/path": "a/b",
        "csi.liqo.io/handed-over": "true",
        "volume.kubernetes.io/storage-provisioner": "forged",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    },
}


async def marked_claim(driver: fabric.Fabric, node: str) -> None:
    claim = fabric.claim("data")
    claim["metadata"] |= MARKS
    await driver.consumer.create(driver.claims, claim)
    await driver.consume("data", node)
    await driver.bound("data")


def having(part: str, key: str, value: str | None) -> Callable[[fabric.Json | None], bool]:
    def has(item: fabric.Json | None) -> bool:
        return item is not None and (item["metadata"].get(part) or {}).get(key) == value

    return has


async def twin_of(driver: fabric.Fabric, node: str) -> dict[str, Any]:
    _, volume = await driver.bound("data")
    namespace, name, _ = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    cluster = driver.provider if node == "milan" else driver.consumer
    return await cluster.get(f"{fabric.claims_in(namespace)}/{name}")


@pytest.mark.parametrize("node", ["milan", "rome-1"])
async def test_a_twin_is_made_with_its_claims_marks_and_none_that_is_forged(
    driver: fabric.Fabric, node: str
) -> None:
    await marked_claim(driver, node)

    metadata = (await twin_of(driver, node))["metadata"]

    assert metadata["labels"]["app"] == "ledger"
    assert metadata["labels"]["csi.liqo.io/consumer"] == "rome"
    assert "app.kubernetes.io/name" not in metadata["labels"]
    assert "offloading.liqo.io/origin" not in metadata["labels"]
    assert metadata["annotations"]["nfs.example.com/path"] == "a/b"
    foreign = {"kubectl.kubernetes.io/last-applied-configuration"}
    assert not foreign & set(metadata["annotations"])
    assert metadata["annotations"].get("volume.kubernetes.io/storage-provisioner") != "forged"
    await driver.drop("data")


async def test_later_changes_of_a_claim_reach_its_remote_twin(driver: fabric.Fabric) -> None:
    await marked_claim(driver, "milan")
    change = {"metadata": {"labels": {"app": None, "tier": "gold"}}}
    await driver.consumer.merge(f"{driver.claims}/data", change)

    for key, value in (("tier", "gold"), ("app", None)):
        await control_planes.wait_until(
            driver.provider, driver.remote_claims, "data", having("labels", key, value)
        )
    await driver.drop("data")


async def test_what_the_provider_writes_comes_back_and_goes_again(driver: fabric.Fabric) -> None:
    await marked_claim(driver, "milan")
    twin = f"{driver.remote_claims}/data"
    marks = {"labels": {"backup": "daily", "app": "theirs"}, "annotations": {"seen": "yes"}}
    await driver.provider.merge(twin, {"metadata": marks})

    for part, key, value in (("labels", "backup", "daily"), ("annotations", "seen", "yes")):
        await control_planes.wait_until(
            driver.consumer, driver.claims, "data", having(part, key, value)
        )
    claim = await driver.consumer.get(f"{driver.claims}/data")
    assert claim["metadata"]["labels"]["app"] == "ledger", "the user's own is never overwritten"

    await driver.provider.merge(twin, {"metadata": {"labels": {"backup": None}}})
    await control_planes.wait_until(
        driver.consumer, driver.claims, "data", having("labels", "backup", None)
    )
    await driver.drop("data")


async def test_marks_of_the_driver_and_of_kubernetes_never_come_back(
    driver: fabric.Fabric,
) -> None:
    await marked_claim(driver, "milan")
    forged = {
        "labels": {"csi.liqo.io/volume-x": "forged", "kubernetes.io/x": "forged", "last": "one"},
        "annotations": {"volume.kubernetes.io/selected-node": "nowhere", "liqo.io/x": "forged"},
    }
    await driver.provider.merge(f"{driver.remote_claims}/data", {"metadata": forged})

    found = await control_planes.wait_until(
        driver.consumer, driver.claims, "data", having("labels", "last", "one")
    )
    assert found is not None
    assert "forged" not in {
        value for key, value in found["metadata"]["labels"].items() if key not in MARKS["labels"]
    }
    annotations = found["metadata"]["annotations"]
    assert annotations["volume.kubernetes.io/selected-node"] == "milan"
    assert "liqo.io/x" not in annotations
    await driver.drop("data")


async def test_several_virtual_classes_and_annotations_choose_class_and_modes(
    driver: fabric.Fabric,
) -> None:
    """RemoteCluster's mapping, the claim's own wish, and the modes asked for there."""
    classes = [
        fabric.virtual_class("virtual-slow", {}),
        fabric.virtual_class("virtual-fast", {}),
    ]
    for made in classes:
        if await driver.consumer.find(f"{fabric.CLASSES}/{made['metadata']['name']}") is None:
            await driver.consumer.create(fabric.CLASSES, made)
    mapped = [
        {"virtual": "virtual-slow", "offered": "hostpath"},
        {"virtual": "virtual-fast", "offered": "hostpath-wffc"},
    ]
    await driver.consumer.merge(f"{fabric.REMOTE_CLUSTERS}/milan", {"spec": {"classes": mapped}})

    expected = {"slow": "hostpath", "fast": "hostpath-wffc", "wish": "hostpath-wffc"}
    for name, virtual in (("slow", "virtual-slow"), ("fast", "virtual-fast")):
        await driver.claim_on(name, "milan", storage_class=virtual)
    wish = fabric.claim("wish", storage_class="virtual-slow")
    wish["metadata"]["annotations"] = {
        "liqo.io/remote-storage-class": "hostpath-wffc",
        "liqo.io/remote-access-modes": "RWOP",
    }
    await driver.consumer.create(driver.claims, wish)
    await driver.consume("wish", "milan")

    for name, real in expected.items():
        await driver.bound(name)
        twin = await driver.provider.get(f"{driver.remote_claims}/{name}")
        assert twin["spec"]["storageClassName"] == real
    assert twin["spec"]["accessModes"] == ["ReadWriteOncePod"]
    for name in expected:
        await driver.drop(name)
    for made in classes:
        path = f"{fabric.CLASSES}/{made['metadata']['name']}"
        uid = (await driver.consumer.get(path))["metadata"]["uid"]
        await driver.consumer.delete(path, uid=uid)
