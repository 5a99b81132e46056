"""The main job on real API servers: claims go where their consumer was scheduled."""

from __future__ import annotations

from tests import control_planes
from tests.cluster import fabric


async def test_a_claim_on_a_real_node_gets_a_local_twin_and_leaves_nothing(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()

    await driver.claim_on("data", "rome-1")
    claim, volume = await driver.bound("data")

    handle = volume["spec"]["csi"]["volumeHandle"]
    twin = await driver.consumer.get(f"{driver.twins}/{handle}")
    assert twin["status"]["phase"] == "Bound"
    assert twin["spec"]["storageClassName"] == "hostpath"
    assert twin["metadata"]["annotations"]["csi.liqo.io/handed-over"] == "true"
    assert twin["metadata"]["annotations"]["csi.liqo.io/claim-uid"] == claim["metadata"]["uid"]
    assert "csi.liqo.io/twin" in twin["metadata"]["finalizers"]
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    pinned = {rule["key"]: rule["values"] for rule in terms[0]["matchExpressions"]}
    assert pinned == {fabric.CLUSTER_KEY: ["rome"], fabric.NODE_KEY: ["rome-1"]}

    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


async def test_a_claim_on_a_virtual_node_gets_a_twin_of_its_name_in_the_provider(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()

    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")

    twin = await driver.provider.get(f"{driver.remote_claims}/data")
    assert twin["status"]["phase"] == "Bound"
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    pinned = {rule["key"]: rule["values"] for rule in terms[0]["matchExpressions"]}
    assert pinned == {fabric.CLUSTER_KEY: ["milan"]}

    await driver.drop("data")
    await control_planes.wait_until_gone(driver.provider, driver.remote_claims, "data")
    await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []
