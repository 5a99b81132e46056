"""Nothing deletes data by accident."""

from __future__ import annotations

import pytest

from tests import control_planes
from tests.cluster import fabric


async def delete_volume(driver: fabric.Fabric, volume: fabric.Json) -> None:
    path = f"{fabric.VOLUMES}/{volume['metadata']['name']}"
    await driver.consumer.delete(path, uid=volume["metadata"]["uid"])


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_retained_volume_keeps_its_twin_and_its_data(
    driver: fabric.Fabric, node: str
) -> None:
    retaining = fabric.virtual_class("csi-liqo-retain", {}, reclaimPolicy="Retain")
    if await driver.consumer.find(f"{fabric.CLASSES}/csi-liqo-retain") is None:
        await driver.consumer.create(fabric.CLASSES, retaining)
    await driver.claim_on("data", node, storage_class="csi-liqo-retain")
    _, volume = await driver.bound("data")
    namespace, name, uid = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    home = driver.provider if node == "milan" else driver.consumer

    await driver.drop("data")
    await delete_volume(driver, volume)
    await driver.volume_gone(volume["metadata"]["name"])

    twin = await home.get(f"{fabric.claims_in(namespace)}/{name}")
    assert twin["metadata"]["uid"] == uid
    assert twin["metadata"]["annotations"]["csi.liqo.io/handed-over"] == "true"
    assert twin["status"]["phase"] == "Bound"
    plane = driver.milan if node == "milan" else driver.rome
    real = await home.get(f"{fabric.VOLUMES}/{twin['spec']['volumeName']}")
    directory = real["spec"]["hostPath"]["path"].rsplit("/", 1)[1]
    assert (plane.hostpath_directory / directory).is_dir()

    path = f"{fabric.claims_in(namespace)}/{name}"
    await home.merge(path, fabric.OPENED)
    await home.merge(path, {"metadata": {"finalizers": None}})
    await home.delete(path, uid=uid)


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_twin_that_someone_deletes_stays_until_its_volume_is_deleted(
    driver: fabric.Fabric, node: str
) -> None:
    before = await driver.snapshot()
    await driver.claim_on("data", node)
    _, volume = await driver.bound("data")
    namespace, name, uid = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    home = driver.provider if node == "milan" else driver.consumer
    collection = fabric.claims_in(namespace)

    await home.merge(f"{collection}/{name}", fabric.OPENED)
    await home.delete(f"{collection}/{name}", uid=uid)

    # Kubernetes' own protection lets it go at once: no pod names a twin.
    twin = await control_planes.wait_until(
        home,
        collection,
        name,
        lambda item: (item or {}).get("metadata", {}).get("finalizers") == ["csi.liqo.io/twin"],
    )
    assert twin is not None
    real = await home.get(f"{fabric.VOLUMES}/{twin['spec']['volumeName']}")
    assert real["status"]["phase"] == "Bound"
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


async def test_a_volume_of_another_cluster_id_keeps_the_controller_from_starting(
    driver: fabric.Fabric,
) -> None:
    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    await driver.controller.end()
    other = fabric.Process(
        [
            *(*fabric.PROGRAM, "controller", "--cluster-id=florence"),
            f"--csi-endpoint=unix://{driver.socket}",
            f"--kubeconfig={driver.rome.kubeconfig_for(fabric.CONTROLLER_USER)}",
            *("--health-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"),
        ],
        driver.directory / "other.log",
    )
    await other.start()
    assert await other.wait() != 0
    assert "set the cluster id back to it" in other.log.read_text()
    await driver.controller.start()
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
