"""A provider that hangs, is slow or has hundreds of namespaces holds up nobody else.

It hangs as the worst do: its API server is stopped by a signal, so that it takes
connections and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
import yaml

from lab import control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, fabric

Code = grpc.StatusCode
Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

PROMPT_SECONDS: Final = 5.0
"""Far less than any timeout: who waits for the provider that hangs takes longer."""
MANY: Final = 200


@contextlib.contextmanager
def stopped(plane: control_plane.ControlPlane) -> Iterator[None]:
    server = plane.components[control_plane.API_SERVER]
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


@pytest.fixture
async def turin(
    driver: fabric.Fabric, third: control_plane.ControlPlane
) -> AsyncIterator[control_plane.ControlPlane]:
    """A second provider of rome, beside milan."""
    fabric.grant_namespace(third, driver.remote_namespace)
    remote = fabric.remote_cluster({driver.namespace: driver.remote_namespace}, clusterID="turin")
    remote["metadata"]["name"] = "turin"
    remote["spec"]["kubeconfigSecretRef"] = {"name": "turin"}
    secret = fabric.kubeconfig_secret(third.kubeconfig_text(fabric.CONSUMER_USER))
    secret["metadata"]["name"] = "turin"
    text = yaml.safe_dump_all([secret, remote])
    fabric.kubectl(driver.rome, "apply", "-f", "-", text=text)
    fabric.make_virtual_node(driver.rome, "turin")
    try:
        await control_planes.wait_until(
            driver.consumer, fabric.REMOTE_CLUSTERS, "turin", fabric.is_ready
        )
        await control_planes.wait_until(
            driver.consumer, fabric.CSI_NODES, "turin", lambda item: item is not None
        )
        yield third
    finally:
        fabric.forget_remote_cluster(driver.rome, "turin")
        fabric.kubectl(driver.rome, "delete", "--namespace=csi-liqo", "secret", "turin")
        fabric.kubectl(driver.rome, "delete", "node", "turin")


async def reported(driver: fabric.Fabric, *, ready: bool, timeout_seconds: float = 60) -> None:
    await control_planes.wait_until(
        driver.consumer,
        fabric.REMOTE_CLUSTERS,
        "milan",
        lambda item: item is not None and fabric.is_ready(item) is ready,
        timeout_seconds=timeout_seconds,
    )


async def timed_create(
    driver: fabric.Fabric, caller: calls.Caller, name: str, node: str, *, cluster: str = ""
) -> tuple[float, grpc.StatusCode, str]:
    """Create a volume as the sidecar would; returns how long that took, and what it said."""
    claim = await driver.consumer.create(driver.claims, fabric.claim(name))
    await asyncio.sleep(0.2)  # the driver's own watch sees it, too: what is timed is the call
    began = time.monotonic()
    code, text, _ = await caller.create(calls.wish(claim, node, cluster=cluster))
    return time.monotonic() - began, code, text


BESIDE: Final = (("rome-1", ""), ("turin", "turin"))
"""Node and cluster of what must go on as if nothing were the matter with milan."""


async def typical_seconds(
    driver: fabric.Fabric, caller: calls.Caller, prefix: str
) -> dict[str, float]:
    """Create some volumes everywhere but in milan; returns how long that typically takes where."""
    typical = {}
    for node, cluster in BESIDE:
        taken = []
        for number in range(5):
            name = f"{prefix}-{node}-{number}"
            seconds, code, text = await timed_create(driver, caller, name, node, cluster=cluster)
            assert code is Code.OK, text
            taken.append(seconds)
        assert max(taken) < PROMPT_SECONDS
        typical[node] = statistics.median(taken)
    return typical


def assert_no_slower(now: dict[str, float], before: dict[str, float]) -> None:
    """Compare in the same run, with room for what else the machine does."""
    for node, seconds in now.items():
        assert seconds < 2 * before[node] + 0.5, f"{node}: {seconds:.2f} s, was {before}"


async def clear(driver: fabric.Fabric, caller: calls.Caller) -> None:
    """Delete what was made by calls alone, and then all claims."""
    for claim in (await driver.consumer.get(driver.claims))["items"]:
        if not claim["spec"].get("volumeName"):
            code, text = await caller.delete(f"pvc-{claim['metadata']['uid']}")
            assert code is Code.OK, text
        await driver.drop(claim["metadata"]["name"])


@pytest.mark.timeout(240)
async def test_a_hanging_provider_holds_up_neither_local_volumes_nor_other_providers(
    driver: fabric.Fabric, caller: calls.Caller, turin: control_plane.ControlPlane
) -> None:
    await driver.claim_on("there", "milan")
    _, there = await driver.bound("there")
    before = await typical_seconds(driver, caller, "before")
    with stopped(driver.milan):
        # Before it is known: calls that hang there, and others beside them.
        hanging = [
            asyncio.create_task(timed_create(driver, caller, f"hang-{number}", "milan"))
            for number in range(20)
        ]
        await asyncio.sleep(1)  # they are on their way
        assert_no_slower(await typical_seconds(driver, caller, "unknown"), before)
        for _, code, text in await asyncio.gather(*hanging):
            assert code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED), text

        # Once it is known: whoever wants nothing but that provider is told at once.
        await reported(driver, ready=False)
        seconds, code, text = await timed_create(driver, caller, "late", "milan")
        assert code is Code.RESOURCE_EXHAUSTED, text
        assert seconds < PROMPT_SECONDS
        assert_no_slower(await typical_seconds(driver, caller, "known"), before)
        await driver.drop("there")
        code, _ = await caller.delete(there["spec"]["csi"]["volumeHandle"])
        assert code in (Code.UNAVAILABLE, Code.ABORTED)

    await reported(driver, ready=True)
    await driver.volume_gone(there["metadata"]["name"], timeout_seconds=90)
    await driver.consume("hang-0", "milan")
    await driver.bound("hang-0", timeout_seconds=60)
    await clear(driver, caller)


@pytest.mark.timeout(180)
async def test_a_controller_that_starts_beside_a_hanging_provider_serves_all_others(
    driver: fabric.Fabric, caller: calls.Caller, turin: control_plane.ControlPlane
) -> None:
    before = await typical_seconds(driver, caller, "before")
    await driver.controller.end()
    with stopped(driver.milan):
        await driver.controller.start()
        # Probe answers as soon as the caches of this cluster are filled.
        await driver.claim_on("local", "rome-1")
        await driver.bound("local", timeout_seconds=30)
        await driver.claim_on("turin", "turin")
        await driver.bound("turin", timeout_seconds=30)
        assert_no_slower(await typical_seconds(driver, caller, "now"), before)
    await reported(driver, ready=True)
    await driver.claim_on("data", "milan")
    await driver.bound("data", timeout_seconds=60)
    await clear(driver, caller)


@pytest.fixture
async def many(
    prepared: Planes, tmp_path: Path, namespace: str
) -> AsyncIterator[tuple[fabric.Fabric, proxy.FaultProxy]]:
    """A consumer with two hundred mapped namespaces, each granted by itself."""
    targets = [f"many-{namespace[-8:]}-{number}" for number in range(MANY)]
    manifests: list[fabric.Json] = []
    for target in targets:
        manifests.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": target}})
        manifests.append(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "claims", "namespace": target},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "csi-liqo-consumer-claims",
                },
                "subjects": [
                    {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "User",
                        "name": fabric.CONSUMER_USER,
                    }
                ],
            }
        )
    fabric.kubectl(prepared[1], "apply", "-f", "-", text=yaml.safe_dump_all(manifests))

    def change(remote: fabric.Json) -> None:
        mapping = remote["spec"]["namespaceMapping"]["explicit"]
        mapping |= {f"ns-{number}": target for number, target in enumerate(targets)}

    rights = prepared[1].kubeconfig_for(fabric.CONSUMER_USER)
    async with (
        proxy.FaultProxy(rights, tmp_path / "milan-proxy") as before,
        fabric.running(
            *(*prepared, tmp_path, namespace),
            provider_kubeconfig=before.kubeconfig.read_text(),
            change=change,
        ) as driver,
    ):
        yield driver, before


@pytest.mark.timeout(300)
async def test_two_hundred_namespaces_do_not_starve_the_writes(
    many: tuple[fabric.Fabric, proxy.FaultProxy],
) -> None:
    driver, before = many
    watched = rules.Match(resource="persistentvolumeclaims", is_watch=True)

    def open_watches() -> int:
        return len({item.target.namespace for item in before.watches if watched.accepts(item)})

    async def until_all_watch() -> None:
        async with asyncio.timeout(90):
            while open_watches() <= MANY:  # noqa: ASYNC110  # the proxy tells of no changes
                await asyncio.sleep(0.2)

    await until_all_watch()
    caller = calls.Caller(driver)
    slowest = 0.0
    for number in range(10):
        seconds, code, text = await timed_create(driver, caller, f"data-{number}", "milan")
        assert code is Code.OK, text
        slowest = max(slowest, seconds)
    assert slowest < PROMPT_SECONDS

    # All break at once, as when the API server starts anew; writes go first even then.
    before.cut_watches()
    seconds, code, text = await timed_create(driver, caller, "after", "milan")
    assert code is Code.OK, text
    assert seconds < 2 * PROMPT_SECONDS
    await until_all_watch()
    await clear(driver, caller)
    await caller.close()
