"""Twins that nobody was told of are collected wherever they are; what was handed over stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from lab import control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, conditions, fabric

Code = grpc.StatusCode
Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

TWIN_MARKED = rules.Match(method="PATCH", resource="persistentvolumeclaims")


@pytest.fixture
async def driver(
    prepared: Planes, tmp_path: Path, namespace: str, milan_proxy: proxy.FaultProxy
) -> AsyncIterator[fabric.Fabric]:
    async with fabric.running(
        *(*prepared, tmp_path, namespace),
        provider_kubeconfig=milan_proxy.kubeconfig.read_text(),
        orphan_grace_seconds=3,
    ) as running:
        yield running


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


async def listed(driver: fabric.Fabric) -> list[tuple[str, str, str]]:
    """Return what the program lists of the twins in this test's namespace that no volume names."""
    rows = await fabric.orphans(driver.rome, "rome")
    return [
        (row["cluster"], row["twin"], row["state"])
        for row in rows
        if row["twin"].startswith(f"{driver.remote_namespace}/")
    ]


async def test_a_twin_nobody_was_told_of_is_collected_where_its_claim_did_not_go(
    driver: fabric.Fabric, caller: calls.Caller, milan_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    rule = milan_proxy.fail(TWIN_MARKED, status=503, times=None)
    code, _, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.UNAVAILABLE
    assert await driver.provider.find(f"{driver.remote_claims}/data") is not None
    milan_proxy.remove(rule)

    await driver.consume("data", "rome-1")
    _, volume = await driver.bound("data")

    await control_planes.wait_until_gone(driver.provider, driver.remote_claims, "data")
    twin = volume["spec"]["csi"]["volumeAttributes"]["twin"].split("/")
    assert await driver.consumer.find(f"{fabric.claims_in(twin[0])}/{twin[1]}") is not None
    await driver.drop("data")
    assert await driver.settled(before) == []


@pytest.mark.parametrize("fate", ["deleted", "bound elsewhere"])
@pytest.mark.parametrize("restarts", [False, True], ids=["", "across-a-restart"])
async def test_a_twin_nobody_was_told_of_is_collected_once_its_provider_is_back(
    driver: fabric.Fabric,
    caller: calls.Caller,
    milan_proxy: proxy.FaultProxy,
    fate: str,
    restarts: bool,
) -> None:
    """What became of its claim came to be while nobody saw the twin."""
    before = await driver.snapshot()
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    milan_proxy.fail(TWIN_MARKED, status=503, times=None)
    code, _, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.UNAVAILABLE
    await milan_proxy.go_down()
    await conditions.reported_away(driver)
    if restarts:
        await driver.controller.end()
        await driver.controller.start()

    if fate == "deleted":
        await driver.drop("data")
    else:
        await driver.consume("data", "rome-1")
        await driver.bound("data")
    assert await driver.provider.find(f"{driver.remote_claims}/data") is not None

    milan_proxy.rules.clear()
    await milan_proxy.come_up()
    await control_planes.wait_until(
        *(driver.provider, driver.remote_claims, "data"),
        lambda item: item is None,
        timeout_seconds=60,
    )
    await driver.drop("data")
    assert await driver.settled(before) == []


async def test_a_twin_that_was_handed_over_beside_the_claims_volume_is_listed_and_kept(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    """As when the answer was lost and the claim went elsewhere: it may hold data."""
    claim = await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    metadata = {
        "name": "data",
        "finalizers": ["csi.liqo.io/twin"],
        "labels": {
            "csi.liqo.io/volume": volume["metadata"]["name"],
            "csi.liqo.io/consumer": "rome",
        },
        "annotations": {
            "csi.liqo.io/handed-over": "true",
            "csi.liqo.io/claim": f"{driver.namespace}/data",
            "csi.liqo.io/claim-uid": claim["metadata"]["uid"],
        },
    }
    other = fabric.claim("data", storage_class="hostpath") | {"metadata": metadata}
    made = await driver.provider.create(driver.remote_claims, other)

    assert await listed(driver) == [("milan", f"{driver.remote_namespace}/data", "abandoned")]
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    # csi-provisioner asks once more while it does not see that the volume is gone.
    assert (await caller.delete(volume["spec"]["csi"]["volumeHandle"]))[0] is Code.OK
    assert await listed(driver) == [("milan", f"{driver.remote_namespace}/data", "abandoned")]
    path = f"{driver.remote_claims}/data"
    await driver.provider.merge(path, {"metadata": {"finalizers": None}})
    await driver.provider.delete(path, uid=made["metadata"]["uid"])


async def test_no_twin_is_forgotten_in_a_namespace_of_which_nothing_tells_any_more(
    prepared: Planes, tmp_path: Path, namespace: str
) -> None:
    """A template maps it, the provider grants it alone, and its claims are gone."""

    def by_template(remote: fabric.Json) -> None:
        remote["spec"]["namespaceMapping"] = {"template": "${consumer}-${namespace}"}

    async with fabric.running(
        *(*prepared, tmp_path, namespace), change=by_template, orphan_grace_seconds=3
    ) as driver:
        caller = calls.Caller(driver)
        claim = await driver.consumer.create(driver.claims, fabric.claim("answered"))
        code, _, volume = await caller.create(calls.wish(claim, "milan"))
        assert code is Code.OK
        claim = await driver.consumer.create(driver.claims, fabric.claim("waiting"))
        request = calls.wish(claim, "milan", remoteClass="nobody")
        while await driver.provider.find(f"{driver.remote_claims}/waiting") is None:
            code, _, _ = await caller.create(request, timeout_seconds=4)
            assert code is Code.DEADLINE_EXCEEDED
        await driver.controller.end()
        for name in ("answered", "waiting"):
            await driver.drop(name)
            assert await driver.provider.find(f"{driver.remote_claims}/{name}") is not None

        await driver.controller.start()
        await control_planes.wait_until_gone(driver.provider, driver.remote_claims, "waiting")
        abandoned = ("milan", f"{driver.remote_namespace}/answered", "abandoned")
        assert await listed(driver) == [abandoned]
        assert await caller.delete(volume.volume_id) == (Code.OK, "")
        await caller.close()
        assert (await driver.provider.get(driver.remote_claims))["items"] == []


async def test_a_twin_whose_claim_is_deleted_meanwhile_is_collected(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    before = await driver.snapshot()
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    request = calls.wish(claim, "milan", remoteClass="nobody")
    code, text, _ = await caller.create(request, timeout_seconds=4)
    assert code is Code.DEADLINE_EXCEEDED
    assert "waiting for twin" in text

    await driver.drop("data")

    assert await driver.settled(before) == []


async def test_a_handed_over_twin_is_never_collected(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    """It may hold data: only the deletion of its volume takes it away."""
    claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
    code, _, volume = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.OK
    await driver.drop("data")
    later = await driver.consumer.create(driver.claims, fabric.claim("later"))
    code, _, other = await caller.create(
        calls.wish(later, "milan", remoteClass="nobody"), timeout_seconds=4
    )
    assert code is Code.DEADLINE_EXCEEDED
    await driver.drop("later")
    await control_planes.wait_until_gone(driver.provider, driver.remote_claims, "later")

    assert await driver.provider.find(f"{driver.remote_claims}/data") is not None
    assert await caller.delete(volume.volume_id) == (Code.OK, "")
    assert not other.volume_id
