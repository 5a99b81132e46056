"""A provider's description may be forced away and made again, with another cluster behind it.

The volumes know where their data is. Until an administrator says otherwise, the other cluster
is neither written to nor believed when it says that they are gone.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import grpc
import pytest

from lab import api, control_plane
from lab.faults import proxy
from tests import control_planes
from tests.cluster import calls, conditions, fabric
from tests.cluster.test_status_back import has_health

Code = grpc.StatusCode

IDENTITY: Final = "csi.liqo.io/identity"
STATUS: Final = f"{fabric.REMOTE_CLUSTERS}/milan/status"
ACCEPTED: Final[fabric.Json] = {"status": {"identity": ""}}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def turin(
    third: control_plane.ControlPlane, driver: fabric.Fabric, tmp_path: Path
) -> AsyncIterator[proxy.FaultProxy]:
    """Another cluster that lends the same namespace, seen through a proxy that counts."""
    fabric.grant_namespace(third, driver.remote_namespace)
    rights = third.kubeconfig_for(fabric.CONSUMER_USER)
    async with proxy.FaultProxy(rights, tmp_path / "turin") as before:
        yield before


async def lead_to(driver: fabric.Fabric, kubeconfig: str) -> None:
    data = {"kubeconfig": base64.b64encode(kubeconfig.encode()).decode()}
    await driver.consumer.merge(f"{fabric.SECRETS}/milan", {"data": data})


async def make_anew(driver: fabric.Fabric, kubeconfig: str) -> None:
    """Force the RemoteCluster away, and make it again with another kubeconfig."""
    found = await driver.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan")
    fabric.forget_remote_cluster(driver.rome, "milan")
    await lead_to(driver, kubeconfig)
    again = {key: found[key] for key in ("apiVersion", "kind", "spec")}
    await driver.consumer.create(fabric.REMOTE_CLUSTERS, again | {"metadata": {"name": "milan"}})


def is_known_by(uid: str) -> Callable[[fabric.Json | None], bool]:
    return lambda item: (item or {})["metadata"].get("annotations", {}).get(IDENTITY) == uid


async def uid_of(server: api.Api) -> str:
    found = await server.get("/api/v1/namespaces/kube-system")
    return str(found["metadata"]["uid"])


@pytest.mark.parametrize("running", [True, False], ids=["seen", "while-the-controller-was-away"])
async def test_another_cluster_behind_a_description_made_anew_gets_no_volume_of_the_first(
    driver: fabric.Fabric, turin: proxy.FaultProxy, running: bool
) -> None:
    before = await driver.snapshot()
    caller = calls.Caller(driver)
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name, handle = volume["metadata"]["name"], volume["spec"]["csi"]["volumeHandle"]
    milan = await uid_of(driver.provider)
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, is_known_by(milan))
    twin = await driver.provider.get(f"{driver.remote_claims}/data")

    if not running:
        await driver.controller.end()
    await make_anew(driver, turin.kubeconfig.read_text())
    if not running:
        await driver.controller.start()

    await conditions.reported(driver, "Connected", "IdentityChanged", f"it was {milan}")
    again = await driver.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan")
    assert again["status"]["identity"] == milan
    code, text = await caller.delete(handle)
    assert code is Code.UNAVAILABLE
    assert "another cluster answers for milan" in text
    claim = await driver.consumer.create(driver.claims, fabric.claim("new"))
    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "another cluster answers for milan" in text
    listed = await fabric.program(driver.rome, "where", "--retained", "--consumer-id=rome")
    assert "cluster milan (another cluster answers for milan" in listed[2]
    assert [item for item in turin.requests if item.is_write] == []
    shown = await driver.consumer.get(f"{fabric.VOLUMES}/{name}")
    assert has_health("Healthy")(shown)

    await lead_to(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    await conditions.reported_back(driver)
    there = await driver.provider.get(f"{driver.remote_claims}/data")
    assert there["metadata"]["uid"] == twin["metadata"]["uid"]
    assert "deletionTimestamp" not in there["metadata"]
    await caller.close()
    await driver.drop("new")
    await driver.drop("data")
    await driver.volume_gone(name, timeout_seconds=90)
    assert await driver.settled(before) == []


async def test_an_administrator_may_say_that_the_first_cluster_is_gone_for_good(
    driver: fabric.Fabric, turin: proxy.FaultProxy, third: control_plane.ControlPlane
) -> None:
    before = await driver.snapshot()
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    milan = await uid_of(driver.provider)
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, is_known_by(milan))
    await make_anew(driver, turin.kubeconfig.read_text())
    await conditions.reported(driver, "Connected", "IdentityChanged", "empty status.identity")

    await driver.consumer.merge(STATUS, ACCEPTED)
    await conditions.reported_back(driver)
    jsonpath = "-o=jsonpath={.metadata.uid}"
    now = fabric.kubectl(third, "get", "namespace", "kube-system", jsonpath)
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, is_known_by(now))
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, has_health("TwinGone"))

    await lead_to(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    await conditions.reported(driver, "Connected", "IdentityChanged", f"it was {now}")
    await driver.consumer.merge(STATUS, ACCEPTED)
    await conditions.reported_back(driver)
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, has_health("Healthy"))
    await control_planes.wait_until(driver.consumer, fabric.VOLUMES, name, is_known_by(milan))
    await driver.drop("data")
    await driver.volume_gone(name, timeout_seconds=90)
    assert await driver.settled(before) == []
