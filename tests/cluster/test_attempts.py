"""What may be in a provider is noted before it is sent there, and no longer than needed."""

from __future__ import annotations

import grpc
import pytest

from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, conditions, fabric

NAME = "csi-liqo-attempts"
NOTES = f"/api/v1/namespaces/{fabric.TWINS}/configmaps"
WRITES = rules.Match(is_write=True, resource="configmaps", name=NAME)


@pytest.fixture
def driver(between_proxies: fabric.Fabric) -> fabric.Fabric:
    return between_proxies


async def until_noted(driver: fabric.Fabric, claim: fabric.Json, text: str) -> None:
    """Wait until a claim's note reads so; an empty one is none."""
    uid = claim["metadata"]["uid"]
    await control_planes.wait_until(
        *(driver.consumer, NOTES, NAME),
        lambda item: ((item or {}).get("data") or {}).get(uid, "") == text,
    )


@pytest.mark.parametrize("when", rules.When, ids=lambda when: when.name.lower())
@pytest.mark.parametrize("number", [1, 2], ids=["note", "end"])
async def test_killed_at_the_note_or_at_its_end_the_controller_leaves_neither(
    driver: fabric.Fabric, rome_proxy: proxy.FaultProxy, number: int, when: rules.When
) -> None:
    before = await driver.snapshot()
    pause = rome_proxy.pause_at(number, when, WRITES)
    claim = await driver.claim_on("data", "milan")
    await pause.wait_until_reached()
    await driver.controller.end()
    pause.drop()
    await driver.controller.start()

    await driver.bound("data")
    await until_noted(driver, claim, "")
    await driver.drop("data")
    assert await driver.settled(before) == []


async def test_nothing_is_sent_to_a_provider_before_it_is_noted(
    driver: fabric.Fabric, rome_proxy: proxy.FaultProxy, milan_proxy: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    made = rules.Match(is_write=True, resource="persistentvolumeclaims")
    refused = rome_proxy.fail(WRITES, status=500, reason="Placed", times=None)
    claim = await driver.claim_on("data", "milan")
    await driver.event(
        "data", f"that claim {driver.namespace}/data goes to cluster milan could not be noted"
    )
    assert milan_proxy.writes(made) == []

    rome_proxy.remove(refused)
    await driver.bound("data")
    await until_noted(driver, claim, "")
    await driver.drop("data")
    assert await driver.settled(before) == []


async def test_a_note_outlives_the_controller_and_ends_with_its_claim(
    driver: fabric.Fabric, milan_proxy: proxy.FaultProxy
) -> None:
    """What was sent before the provider went may be there: the claim does not go elsewhere."""
    before = await driver.snapshot()
    caller = calls.Caller(driver)
    pause = milan_proxy.pause_at(
        1, rules.When.AFTER, rules.Match(is_write=True, resource="persistentvolumeclaims")
    )
    claim = await driver.claim_on("data", "milan")
    await pause.wait_until_reached()
    await driver.controller.end()
    pause.drop()
    await milan_proxy.go_down()
    await driver.controller.start()
    await conditions.reported_away(driver)
    await until_noted(driver, claim, f"milan/{driver.namespace}/data")

    code, text, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is grpc.StatusCode.UNAVAILABLE, text
    await driver.drop("data")
    await until_noted(driver, claim, "")
    await caller.close()
    await milan_proxy.come_up()
    await conditions.reported_back(driver)
    assert await driver.settled(before) == []
