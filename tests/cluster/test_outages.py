"""API servers that are away: nothing is lost, nobody else is held up, all converges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from lab import control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, conditions, expiry, fabric

Code = grpc.StatusCode


@pytest.fixture
def driver(between_proxies: fabric.Fabric) -> fabric.Fabric:
    return between_proxies


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


def entered(item: fabric.Json | None) -> bool:
    drivers = (item or {}).get("spec", {}).get("drivers") or []
    return "csi.liqo.io" in {entry["name"] for entry in drivers}


async def test_an_untouched_claim_goes_elsewhere_while_its_provider_is_away(
    driver: fabric.Fabric, caller: calls.Caller, milan_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    await milan_proxy.go_down()
    await conditions.reported_away(driver)

    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "cluster milan cannot be reached" in text
    assert "see RemoteCluster milan" in text

    await driver.consume("data", "rome-1")
    await driver.bound("data")
    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    await driver.drop("data")
    assert await driver.settled(before) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        pytest.param(429, "Connected", "Overloaded", id="too-many-requests"),
        pytest.param(500, "Connected", "Failing", id="internal-error"),
        pytest.param(503, "Connected", "Failing", id="unavailable"),
        pytest.param(403, "Authorized", "Forbidden", id="forbidden"),
        pytest.param(401, "Authorized", "Unauthorized", id="unauthorized"),
    ],
)
async def test_a_provider_that_refuses_everything_is_done_without_until_it_is_well(
    driver: fabric.Fabric,
    caller: calls.Caller,
    milan_proxy: proxy.FaultProxy,
    status: int,
    kind: str,
    reason: str,
) -> None:
    before = await driver.snapshot()
    await driver.claim_on("there", "milan")
    _, volume = await driver.bound("there")
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    rule = milan_proxy.fail(status=status, reason="Placed", times=None)
    milan_proxy.cut_watches()
    await conditions.reported(driver, kind, reason)

    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED, text
    assert "cluster milan cannot be reached" in text
    await driver.drop("there")
    code, _ = await caller.delete(volume["spec"]["csi"]["volumeHandle"])
    assert code in (Code.UNAVAILABLE, Code.ABORTED)
    await driver.claim_on("local", "rome-1")
    await driver.bound("local")
    await driver.drop("local")

    # A controller that starts now has never seen the provider well.
    await driver.controller.end()
    await driver.controller.start()
    await driver.claim_on("local-2", "rome-1")
    await driver.bound("local-2")
    await driver.drop("local-2")
    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED, text
    code, _ = await caller.delete(volume["spec"]["csi"]["volumeHandle"])
    assert code in (Code.UNAVAILABLE, Code.ABORTED)

    milan_proxy.remove(rule)
    await conditions.reported_back(driver)
    await driver.consume("data", "milan")
    await driver.bound("data", timeout_seconds=60)
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"], timeout_seconds=90)
    assert await driver.settled(before) == []


async def test_a_provider_whose_certificate_expired_is_done_without_and_that_is_said(
    driver: fabric.Fabric, caller: calls.Caller, milan_proxy: proxy.FaultProxy, tmp_path: Path
) -> None:
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    pair = expiry.Served(tmp_path / "milan-proxy" / "pki")
    good = pair.read()
    pair.expire()
    await milan_proxy.go_down()
    await milan_proxy.come_up()
    await conditions.reported(
        driver, "Connected", "CertificateNotTrusted", "certificate has expired"
    )
    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "certificate has expired" in text

    pair.write(good)
    await milan_proxy.go_down()
    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    await driver.consume("data", "milan")
    await driver.bound("data")
    await driver.drop("data")


@pytest.mark.timeout(300)
async def test_a_watch_that_falls_silent_delays_and_loses_nothing(
    driver: fabric.Fabric, milan_proxy: proxy.FaultProxy
) -> None:
    """Calls are answered all the while, so only the silence itself tells."""
    before = await driver.snapshot()
    milan_proxy.silence_watches()
    await driver.claim_on("data", "milan")
    await driver.claim_on("local", "rome-1")
    await driver.bound("local")
    twin = await control_planes.wait_until_there(driver.provider, driver.remote_claims, "data")
    milan_proxy.end_silence_of_new_watches()

    await driver.bound("data", timeout_seconds=150)
    after = await driver.provider.get(f"{driver.remote_claims}/data")
    assert after["metadata"]["uid"] == twin["metadata"]["uid"]
    for name in ("data", "local"):
        await driver.drop(name)
    assert await driver.settled(before) == []


async def test_another_cluster_under_the_same_address_is_never_written_to(
    driver: fabric.Fabric,
    caller: calls.Caller,
    milan_proxy: proxy.FaultProxy,
    third: control_plane.ControlPlane,
) -> None:
    """As after a provider was deleted and made again with the same names and credentials."""
    before = await driver.snapshot()
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    fabric.grant_namespace(third, driver.remote_namespace)
    claim = await driver.consumer.create(driver.claims, fabric.claim("new"))

    await milan_proxy.lead_to(third.kubeconfig_for(fabric.CONSUMER_USER))
    seen = len(milan_proxy.requests)
    await conditions.reported(
        driver, "Connected", "IdentityChanged", "another cluster answers for milan"
    )
    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "another cluster answers" in text
    await driver.drop("data")
    code, _ = await caller.delete(volume["spec"]["csi"]["volumeHandle"])
    assert code in (Code.UNAVAILABLE, Code.ABORTED), "its data is in the other one"
    await driver.controller.end()
    await driver.controller.start()
    await conditions.reported(driver, "Connected", "IdentityChanged", "it was")
    assert [item for item in milan_proxy.requests[seen:] if item.is_write and item.sent] == []

    await milan_proxy.lead_to(driver.milan.kubeconfig_for(fabric.CONSUMER_USER))
    await conditions.reported_back(driver)
    await driver.volume_gone(volume["metadata"]["name"], timeout_seconds=90)
    await driver.drop("new")
    assert await driver.settled(before) == []


async def test_an_administrator_may_say_that_a_changed_identity_is_right(
    driver: fabric.Fabric, milan_proxy: proxy.FaultProxy, third: control_plane.ControlPlane
) -> None:
    fabric.grant_namespace(third, driver.remote_namespace)
    await milan_proxy.lead_to(third.kubeconfig_for(fabric.CONSUMER_USER))
    await conditions.reported(driver, "Connected", "IdentityChanged", "empty status.identity")

    path = f"{fabric.REMOTE_CLUSTERS}/milan/status"
    await driver.consumer.merge(path, {"status": {"identity": ""}})
    await conditions.reported_back(driver)
    found = await driver.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan")
    assert found["status"]["identity"] == identity_of(third)


async def test_an_identity_that_is_emptied_while_the_driver_writes_is_not_written_back(
    driver: fabric.Fabric,
    rome_proxy: proxy.FaultProxy,
    milan_proxy: proxy.FaultProxy,
    third: control_plane.ControlPlane,
) -> None:
    fabric.grant_namespace(third, driver.remote_namespace)
    status = rules.Match(resource="remoteclusters", subresource="status", is_write=True)
    late = rome_proxy.pause_at(1, rules.When.BEFORE, status)
    await milan_proxy.lead_to(third.kubeconfig_for(fabric.CONSUMER_USER))
    await late.wait_until_reached()

    path = f"{fabric.REMOTE_CLUSTERS}/milan/status"
    await driver.consumer.merge(path, {"status": {"identity": ""}})
    late.release()

    found = await control_planes.wait_until(
        driver.consumer,
        fabric.REMOTE_CLUSTERS,
        "milan",
        lambda item: bool((item or {}).get("status", {}).get("identity")),
    )
    assert found is not None
    assert found["status"]["identity"] == identity_of(third)
    await conditions.reported_back(driver)


def identity_of(plane: control_plane.ControlPlane) -> str:
    return fabric.kubectl(plane, "get", "namespace", "kube-system", "-o=jsonpath={.metadata.uid}")


async def test_a_claim_that_may_be_there_waits_for_its_provider(
    driver: fabric.Fabric, caller: calls.Caller, milan_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    milan_proxy.cut(rules.CHANGES, when=rules.When.AFTER)
    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.UNAVAILABLE
    assert f"twin {driver.remote_namespace}/data in cluster milan may exist" in text

    await milan_proxy.go_down()
    await conditions.reported_away(driver)
    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.UNAVAILABLE
    assert f"claim {driver.namespace}/data may exist there" in text

    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    await driver.consume("data", "milan")
    await driver.bound("data")
    await driver.drop("data")
    assert await driver.settled(before) == []


async def test_a_deletion_waits_for_its_provider_and_then_takes_place(
    driver: fabric.Fabric, caller: calls.Caller, milan_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    await driver.claim_on("data", "milan")
    _, volume = await driver.bound("data")
    await milan_proxy.go_down()
    await conditions.reported_away(driver)

    await driver.drop("data")
    code, text = await caller.delete(volume["spec"]["csi"]["volumeHandle"])
    assert code in (Code.UNAVAILABLE, Code.ABORTED)  # the sidecar may be asking just now
    assert "milan" in text or "still running" in text
    twin = await driver.provider.get(f"{driver.remote_claims}/data")
    assert "deletionTimestamp" not in twin["metadata"]

    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    await driver.volume_gone(volume["metadata"]["name"], timeout_seconds=90)
    assert await driver.settled(before) == []


async def test_a_restart_finds_a_provider_away_and_serves_this_cluster(
    driver: fabric.Fabric, milan_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    await milan_proxy.go_down()
    await driver.controller.end()
    await driver.controller.start()

    await driver.claim_on("data", "rome-1")
    await driver.bound("data")
    await driver.drop("data")

    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    await driver.claim_on("data", "milan")
    await driver.bound("data")
    await driver.drop("data")
    assert await driver.settled(before) == []


async def test_the_own_api_server_may_be_away_for_a_while(
    driver: fabric.Fabric, caller: calls.Caller, rome_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    await control_planes.wait_until_there(driver.consumer, driver.claims, "data")
    await asyncio.sleep(0.2)  # the driver's own watch is another one
    await rome_proxy.go_down()

    code, text, _ = await caller.create(calls.wish(claim, "rome-1"))
    assert code is Code.UNAVAILABLE
    assert "may exist" in text
    code, _ = await caller.delete("pvc-unknown")
    assert code is Code.UNAVAILABLE

    await rome_proxy.come_up()
    await driver.consume("data", "rome-1")
    await driver.bound("data", timeout_seconds=60)
    await driver.drop("data")
    assert await driver.settled(before) == []


async def test_a_virtual_node_that_is_made_anew_is_entered_again(driver: fabric.Fabric) -> None:
    await control_planes.wait_until(driver.consumer, fabric.CSI_NODES, "milan", entered)
    old = await driver.consumer.get(f"{fabric.NODES}/milan")
    await driver.consumer.delete(f"{fabric.NODES}/milan", uid=old["metadata"]["uid"])
    await control_planes.wait_until_gone(driver.consumer, fabric.NODES, "milan")
    fabric.make_virtual_node(driver.rome, "milan")
    node = await driver.consumer.get(f"{fabric.NODES}/milan")

    def owned(item: fabric.Json | None) -> bool:
        owners = (item or {}).get("metadata", {}).get("ownerReferences") or [{}]
        return entered(item) and owners[0].get("uid") == node["metadata"]["uid"]

    await control_planes.wait_until(driver.consumer, fabric.CSI_NODES, "milan", owned)
    labels = (await driver.consumer.get(f"{fabric.NODES}/milan"))["metadata"]["labels"]
    assert labels[fabric.CLUSTER_KEY] == "milan"
    assert labels[fabric.NODE_KEY] == "milan"


async def test_a_virtual_node_whose_entries_were_all_taken_out_is_entered_again(
    driver: fabric.Fabric,
) -> None:
    """The API server then says null instead of an empty list."""

    await control_planes.wait_until(driver.consumer, fabric.CSI_NODES, "milan", entered)
    emptied = await driver.consumer.merge(f"{fabric.CSI_NODES}/milan", {"spec": {"drivers": None}})
    assert not emptied["spec"]["drivers"]
    await control_planes.wait_until(driver.consumer, fabric.CSI_NODES, "milan", entered)


async def test_a_driver_that_knows_no_topology_does_no_harm(driver: fabric.Fabric) -> None:
    """Its entry in a CSINode has null for a list of keys."""
    foreign = {"name": "other.example.com", "nodeID": "rome-1", "topologyKeys": None}
    path = f"{fabric.CSI_NODES}/rome-1"
    known = (await driver.consumer.get(path))["spec"]["drivers"]
    await driver.consumer.merge(path, {"spec": {"drivers": [*known, foreign]}})
    await driver.controller.end()
    await driver.controller.start()

    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    await driver.consumer.merge(path, {"spec": {"drivers": known}})
