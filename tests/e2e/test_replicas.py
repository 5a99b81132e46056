"""The two replicas that deploy/base brings, as pods on two nodes: a leader ends, or is lost.

The leader is brought to the node without a control plane, then that node loses its power.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final

import pytest

from lab import api, cluster, instance, lifecycle, power, settings, templates
from tests import control_planes
from tests.cluster import fabric

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

NAMESPACE: Final = "csi-liqo"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
DRIVER_LEASE: Final = "csi.liqo.io-controller"
SIDECAR_LEASE: Final = "csi-liqo-io"
PODS: Final = "/api/v1/namespaces/default/pods"
CLAIMS: Final = fabric.claims_in("default")
STAYS, GOES = settings.CLUSTERS["rome"]

TAKEOVER_SECONDS: Final = 5.0
"""What losing the leader may cost."""
HANDOVER_SECONDS: Final = 3.0
"""What telling the leader to end may cost: less than waiting for a lease to run out."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def owner(tmp_path: pathlib.Path) -> Iterator[instance.Instance]:
    made = instance.Instance(tmp_path / "lab")
    try:
        asyncio.run(lifecycle.up(made, print))
        yield made
    finally:
        asyncio.run(lifecycle.down(made, print))


@pytest.fixture
def rome(owner: instance.Instance) -> cluster.Cluster:
    octet = owner.recorded_octet
    assert octet is not None
    return lifecycle.describe(owner, octet).consumer


@pytest.fixture
async def consumer(rome: cluster.Cluster) -> AsyncIterator[api.Api]:
    async with await api.Api.of(rome.plane.kubeconfig) as server:
        yield server


async def replicas(rome: cluster.Cluster) -> dict[str, str]:
    """Return the controller's pods that run and are not told to end, by their nodes."""
    selector = "--selector=app.kubernetes.io/component=controller"
    listed = await rome.kubectl("get", "pods", f"-n={NAMESPACE}", selector, "-o=json")
    return {
        item["spec"]["nodeName"]: item["metadata"]["name"]
        for item in json.loads(listed)["items"]
        if item["status"]["phase"] == "Running" and "deletionTimestamp" not in item["metadata"]
    }


async def led_by(consumer: api.Api, pod: str, *, since: float) -> float:
    """Wait until a pod leads in everything; returns after how many seconds it did."""

    def held(lease: api.Json | None) -> bool:
        return bool((lease or {}).get("spec", {}).get("holderIdentity") == pod)

    async def wait(lease: str) -> float:
        await control_planes.wait_until(consumer, LEASES, lease, held)
        return time.monotonic() - since

    driver, sidecar = await asyncio.gather(wait(DRIVER_LEASE), wait(SIDECAR_LEASE))
    print(f"{pod} leads: driver after {driver:.2f} s, sidecar after {sidecar:.2f} s")
    return max(driver, sidecar)


async def claim(consumer: api.Api, name: str, node: str) -> None:
    """Make a claim and a pod that wants it on a node."""
    await consumer.create(CLAIMS, fabric.claim(name))
    await consumer.create(PODS, templates.pod(name, node))


async def bound(consumer: api.Api, name: str) -> None:
    await control_planes.wait_until(
        consumer,
        CLAIMS,
        name,
        lambda item: (item or {}).get("status", {}).get("phase") == "Bound",
        timeout_seconds=60,
    )


async def tell_to_end(rome: cluster.Cluster, consumer: api.Api, pod: str, other: str) -> None:
    """Delete a pod, see the other one lead before a lease could run out, and wait for a new one."""
    told = time.monotonic()
    await rome.kubectl("delete", "pod", pod, f"-n={NAMESPACE}", "--wait=false")
    assert await led_by(consumer, other, since=told) < HANDOVER_SECONDS
    await rome.kubectl("rollout", "status", "deployment/csi-liqo-controller", f"-n={NAMESPACE}")


async def test_a_leader_hands_over_when_told_to_end_and_is_followed_when_its_node_dies(
    owner: instance.Instance, rome: cluster.Cluster, consumer: api.Api
) -> None:
    pods = await replicas(rome)
    assert set(pods) == {STAYS, GOES}, "the replicas run on different nodes"
    held = [await consumer.get(f"{LEASES}/{lease}") for lease in (DRIVER_LEASE, SIDECAR_LEASE)]
    if {lease["spec"]["holderIdentity"] for lease in held} != {pods[STAYS]}:
        await tell_to_end(rome, consumer, pods[GOES], pods[STAYS])
        pods = await replicas(rome)

    # The node without the control plane is to have the leader, and to keep it.
    await rome.kubectl("cordon", GOES)
    await tell_to_end(rome, consumer, pods[STAYS], pods[GOES])
    follower = (await replicas(rome))[STAYS]
    await claim(consumer, "before", "milan")
    await bound(consumer, "before")

    await claim(consumer, "during", "milan")
    lost = time.monotonic()
    await power.switch_off(owner, [GOES])
    await claim(consumer, "after", STAYS)

    assert await led_by(consumer, follower, since=lost) < TAKEOVER_SECONDS
    await bound(consumer, "after")
    print(f"a claim made afterwards was bound after {time.monotonic() - lost:.2f} s")
    await bound(consumer, "during")
