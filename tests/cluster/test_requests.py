"""What many volumes at once ask of an API server: no more than the same volumes one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest

from csi_liqo.kube import api, event_warnings
from lab import control_plane, templates
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

MANY: Final = 8
CLAIMS: Final = rules.Match(resource="persistentvolumeclaims", is_watch=False)
VOLUMES: Final = rules.Match(resource="persistentvolumes", is_watch=False)


@dataclass(frozen=True, slots=True)
class Watched:
    """The running driver, and the proxy by which it speaks to the consumer's API server."""

    driver: fabric.Fabric
    rome: proxy.FaultProxy

    def asked(self, match: rules.Match, since: int) -> list[str]:
        """Return what was asked after so many requests, by method and name."""
        taken = [item for item in self.rome.requests[since:] if match.accepts(item)]
        return [f"{item.method} {item.target.name}" for item in taken]


@pytest.fixture
async def watched(prepared: Planes, tmp_path: Path, namespace: str) -> AsyncIterator[Watched]:
    rights = prepared[0].kubeconfig_for(fabric.CONTROLLER_USER)
    async with (
        proxy.FaultProxy(rights, tmp_path / "proxy") as rome,
        fabric.running(
            *prepared, tmp_path, namespace, consumer_kubeconfig=rome.kubeconfig
        ) as driver,
    ):
        yield Watched(driver, rome)


async def test_claims_at_once_are_not_in_each_others_way_to_volumes_made_by_hand(
    watched: Watched,
) -> None:
    driver = watched.driver
    volumes = [f"{driver.namespace}-{number}" for number in range(MANY)]
    for name in volumes:
        await driver.consumer.create(fabric.VOLUMES, templates.local_volume(name, "rome-1"))
        await control_planes.wait_until(
            driver.consumer,
            fabric.VOLUMES,
            name,
            lambda item: (item or {}).get("status", {}).get("phase") == "Available",
        )
    names = [f"data-{number}" for number in range(MANY)]
    since = len(watched.rome.requests)

    await asyncio.gather(
        *(driver.claim_on(name, "rome-1", storage_class="csi-liqo-static") for name in names)
    )
    made = [await driver.bound(name) for name in names]

    asked = watched.asked(VOLUMES, since)
    assert sorted(asked) == sorted(f"PATCH {name}" for name in volumes)
    for name in names:
        await driver.drop(name)
    for _, virtual in made:
        await driver.volume_gone(virtual["metadata"]["name"])
    fabric.kubectl(driver.rome, "delete", "pv", *volumes)


async def test_a_deletion_that_is_asked_for_again_is_known_to_be_done(watched: Watched) -> None:
    """The sidecar asks again until it sees what it wrote; here its volume stays meanwhile."""
    driver = watched.driver
    await driver.claim_on("data", "rome-1")
    _, volume = await driver.bound("data")
    name = volume["metadata"]["name"]
    path = f"{fabric.VOLUMES}/{name}"
    held = [*volume["metadata"]["finalizers"], "test.example.com/held"]
    await driver.consumer.merge(path, {"metadata": {"finalizers": held}})
    caller = calls.Caller(driver)
    since = len(watched.rome.requests)

    await driver.drop("data")
    await control_planes.wait_until_gone(driver.consumer, driver.twins, name)
    assert await until_done(caller, volume) == calls.OK
    assert watched.asked(CLAIMS, since) == [f"PATCH {name}", f"DELETE {name}"]
    assert watched.asked(VOLUMES, since) == []

    await driver.controller.end()
    await driver.controller.start()
    since = len(watched.rome.requests)
    assert await until_done(caller, volume) == calls.OK
    assert f"GET {name}" in watched.asked(CLAIMS, since)  # another process looks for itself
    await caller.close()
    await driver.consumer.merge(path, {"metadata": {"finalizers": None}})
    await driver.volume_gone(name)


async def until_done(caller: calls.Caller, volume: fabric.Json) -> grpc.StatusCode:
    """Call DeleteVolume until the sidecar's own call is over, or the caches are filled."""
    while True:
        code, _ = await caller.delete(volume["spec"]["csi"]["volumeHandle"])
        if code not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
            return code


async def test_what_is_asked_of_many_objects_at_once_is_one_question(watched: Watched) -> None:
    """Each gets the newest warning on itself."""
    driver = watched.driver
    events = f"/api/v1/namespaces/{fabric.TWINS}/events"
    for number in range(MANY):
        for minute in ("01", "02"):
            await driver.consumer.create(events, warning(number, minute))
    match = rules.Match(resource="events", is_write=False)
    async with await api.Api.from_kubeconfig(watched.rome.kubeconfig) as server:
        asking = event_warnings.EventWarnings(server)
        since = len(watched.rome.requests)
        told = await asyncio.gather(
            *(asking.latest(fabric.TWINS, f"uid-{number}") for number in range(MANY + 1))
        )
        assert told == [*(f"Refused: {number} at 02" for number in range(MANY)), ""]
        assert len(watched.asked(match, since)) == 1

        alone = await asking.latest(fabric.TWINS, "uid-3")
        assert alone == "Refused: 3 at 02"
        assert len(watched.asked(match, since)) == 2


def warning(number: int, minute: str) -> fabric.Json:
    time = f"2026-01-01T00:{minute}:00Z"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"said-{number}-{minute}", "namespace": fabric.TWINS},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": fabric.TWINS,
            "name": f"data-{number}",
            "uid": f"uid-{number}",
        },
        "type": "Warning",
        "reason": "Refused",
        "message": f"{number} at {minute}",
        "firstTimestamp": time,
        "lastTimestamp": time,
    }
