"""Whole replicas of the controller, each with its sidecar: one leads, the next takes over.

A replica stands for a pod of the Deployment: both programs run with the arguments and the
rights that deploy/ gives them, share a socket, and are told to end, or killed, together.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import yaml

from lab import api, control_plane, templates
from tests import control_planes
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/csi-liqo/leases"
CONTROLLER_LEASE = "csi.liqo.io-controller"
PROVISIONER_LEASE = "csi-liqo-io"

TAKEOVER_SECONDS = 5.0
"""What killing the leader may cost."""
HANDOVER_SECONDS = 3.0
"""What telling the leader to end may cost: less than waiting for a lease to run out."""
CLAIMS = 24
PLACES = ("rome-1", "rome-2", "milan")

pytestmark = pytest.mark.timeout(300)


def held_by(name: str) -> Callable[[fabric.Json | None], bool]:
    return lambda lease: bool((lease or {}).get("spec", {}).get("holderIdentity") == name)


def is_bound(claim: fabric.Json | None) -> bool:
    return bool((claim or {}).get("status", {}).get("phase") == "Bound")


def entered(item: fabric.Json | None) -> bool:
    drivers = (item or {}).get("spec", {}).get("drivers") or []
    return "csi.liqo.io" in {entry["name"] for entry in drivers}


@dataclasses.dataclass
class Replica:
    """One pod of the controller's Deployment: the driver and its sidecar."""

    name: str
    socket: Path
    controller: fabric.Process
    sidecar: fabric.Process

    async def start(self) -> None:
        await self.controller.start()
        await self.sidecar.start()

    async def serves(self) -> None:
        """Wait until the driver answers, which is what a rollout waits for."""
        async with asyncio.timeout(30):
            while not self.socket.exists():  # noqa: ASYNC110  # nothing to watch
                await asyncio.sleep(0.05)

    async def competes(self) -> None:
        """Wait until the sidecar waits for its lease, or holds it."""
        async with asyncio.timeout(30):
            while b"Attempting to acquire" not in self.sidecar.log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def end(self, kind: signal.Signals) -> None:
        """Do to both programs what kubelet does when the pod ends."""
        await asyncio.gather(self.controller.end(kind), self.sidecar.end(kind))

    async def clean_up(self) -> None:
        for process in (self.controller, self.sidecar):
            if process.log.exists():  # shown by pytest when a test fails
                print(process.log, process.log.read_text()[-3000:], sep="\n")
        for process in (self.controller, self.sidecar):
            if not process.ended:
                await process.end()


def forge_replica(rome: control_plane.ControlPlane, directory: Path, name: str) -> Replica:
    """Return a replica, not started. A pod has a host name of its own, and so has this."""
    rights = rome.kubeconfig_for(fabric.CONTROLLER_USER)
    socket = directory / f"{name}.sock"
    provisioner = fabric.provisioner_command(socket, rights, elects=True)
    as_pod = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    return Replica(
        name,
        socket,
        fabric.Process(
            fabric.controller_command(socket, rights), directory / f"{name}.log", POD_NAME=name
        ),
        # Where its lease is, a pod knows from its service account's files.
        fabric.Process(
            [*as_pod, *provisioner],
            directory / f"{name}-provisioner.log",
            NAMESPACE="csi-liqo",
            POD_NAMESPACE="csi-liqo",
        ),
    )


@dataclasses.dataclass
class Installation:
    """Two replicas of which ``first`` leads in everything, and a third that may be started."""

    first: Replica
    second: Replica
    third: Replica
    consumer: api.Api
    provider: api.Api
    namespace: str
    remote_namespace: str

    @property
    def claims(self) -> str:
        return fabric.claims_in(self.namespace)

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    async def claim(self, names: Iterable[str]) -> None:
        """Make claims and pods that want them, on each kind of node."""
        for number, name in enumerate(names):
            await self.consumer.create(self.claims, fabric.claim(name))
            await self.consumer.create(self.pods, templates.pod(name, PLACES[number % len(PLACES)]))

    async def led_by(self, replica: Replica, *, since: float) -> tuple[float, float]:
        """Wait until a replica leads; returns after how long driver and sidecar did."""

        async def held(lease: str) -> float:
            held = held_by(replica.name)
            await control_planes.wait_until(self.consumer, LEASES, lease, held)
            return time.monotonic() - since

        driver, sidecar = await asyncio.gather(held(CONTROLLER_LEASE), held(PROVISIONER_LEASE))
        print(f"{replica.name} leads: driver after {driver:.2f} s, sidecar after {sidecar:.2f} s")
        return driver, sidecar

    async def bound(self, names: Iterable[str]) -> None:
        for name in names:
            await control_planes.wait_until(
                self.consumer, self.claims, name, is_bound, timeout_seconds=90
            )

    async def one_twin_each(self, names: Iterable[str]) -> None:
        """Each claim has one volume and one twin, and no twin is without."""
        claims = (await self.consumer.get(self.claims))["items"]
        uids = {item["metadata"]["uid"] for item in claims}
        assert {item["metadata"]["name"] for item in claims} == set(names)
        volumes = [
            item["spec"]["csi"]["volumeHandle"]
            for item in (await self.consumer.get(fabric.VOLUMES))["items"]
            if "csi" in item["spec"] and item["spec"]["claimRef"]["uid"] in uids
        ]
        twins = [
            *(await self.consumer.get(fabric.claims_in(fabric.TWINS)))["items"],
            *(await self.provider.get(fabric.claims_in(self.remote_namespace)))["items"],
        ]
        ours = [
            twin["metadata"]["labels"]["csi.liqo.io/volume"]
            for twin in twins
            if twin["metadata"]["annotations"].get("csi.liqo.io/claim-uid") in uids
        ]
        assert sorted(ours) == sorted(volumes) == sorted(f"pvc-{uid}" for uid in uids)

    async def drop(self) -> None:
        """Delete all pods and claims, and wait until their volumes are gone, too."""
        for collection in (self.pods, self.claims):
            for item in (await self.consumer.get(collection))["items"]:
                name, uid = item["metadata"]["name"], item["metadata"]["uid"]
                await self.consumer.delete(f"{collection}/{name}", uid=uid, grace_seconds=0)
        for item in (await self.consumer.get(fabric.VOLUMES))["items"]:
            if item["spec"].get("claimRef", {}).get("namespace") == self.namespace:
                name = item["metadata"]["name"]
                await control_planes.wait_until_gone(self.consumer, fabric.VOLUMES, name)


@pytest.fixture
async def installed(
    prepared: Planes, tmp_path: Path, namespace: str
) -> AsyncIterator[Installation]:
    rome, milan = prepared
    remote = f"rome-{namespace}"
    fabric.kubectl(rome, "create", "namespace", namespace)
    fabric.grant_namespace(milan, remote)
    parts = [
        fabric.kubeconfig_secret(milan.kubeconfig_text(fabric.CONSUMER_USER)),
        fabric.remote_cluster({namespace: remote}),
    ]
    fabric.kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump_all(parts))
    first, second, third = (
        forge_replica(rome, tmp_path, name) for name in ("first", "second", "third")
    )
    async with (
        await api.Api.of(rome.kubeconfig) as consumer,
        await api.Api.of(milan.kubeconfig) as provider,
    ):
        made = Installation(first, second, third, consumer, provider, namespace, remote)
        try:
            await first.start()
            await made.led_by(first, since=time.monotonic())
            await second.start()
            ready = fabric.is_ready
            await control_planes.wait_until(consumer, fabric.REMOTE_CLUSTERS, "milan", ready)
            await second.serves()
            await second.competes()
            yield made
        finally:
            for replica in (first, second, third):
                await replica.clean_up()
            fabric.forget_remote_cluster(rome, "milan")
            fabric.kubectl(rome, "delete", "--namespace=csi-liqo", "secret", "milan")


async def some_twins(installed: Installation) -> None:
    """Wait until some of the local twins are made, and hardly all."""
    collection = fabric.claims_in(fabric.TWINS)
    listed = await installed.consumer.get(collection)
    made = sum(
        twin["metadata"]["annotations"].get("csi.liqo.io/claim", "").startswith(installed.namespace)
        for twin in listed["items"]
    )
    query = {"resourceVersion": listed["metadata"]["resourceVersion"]}
    seen = installed.consumer.watch(collection, query, silence_seconds=60)
    async with asyncio.timeout(60), contextlib.aclosing(seen) as watch:
        while made < 3:
            made += (await anext(watch))["type"] == "ADDED"


async def test_killing_the_leader_mid_creation_loses_nothing(installed: Installation) -> None:
    names = [f"data-{number}" for number in range(CLAIMS)]
    await installed.claim(names)
    await some_twins(installed)

    await installed.first.end(signal.SIGKILL)
    killed = time.monotonic()
    csi_node = f"{fabric.CSI_NODES}/milan"
    await installed.consumer.merge(csi_node, {"spec": {"drivers": None}})
    await installed.claim(["late"])
    driver, sidecar = await installed.led_by(installed.second, since=killed)
    await control_planes.wait_until(installed.consumer, fabric.CSI_NODES, "milan", entered)
    reconciled = time.monotonic() - killed

    print(f"reconciled after {reconciled:.2f} s")
    assert max(driver, sidecar, reconciled) < TAKEOVER_SECONDS
    await installed.bound(["late"])
    print(f"a claim made after it was bound after {time.monotonic() - killed:.2f} s")
    await installed.bound(names)
    await installed.one_twin_each([*names, "late"])
    await installed.drop()


async def test_a_leader_that_is_told_to_end_hands_over_at_once(installed: Installation) -> None:
    names = [f"data-{number}" for number in range(CLAIMS)]
    await installed.claim(names)
    await some_twins(installed)

    told = time.monotonic()
    ending = asyncio.create_task(installed.first.end(signal.SIGTERM))
    taken = await installed.led_by(installed.second, since=told)
    await ending

    assert max(taken) < HANDOVER_SECONDS
    assert b"first gave lease" in installed.first.controller.log.read_bytes()
    print(f"ended after {time.monotonic() - told:.2f} s")
    await installed.bound(names)
    await installed.one_twin_each(names)
    await installed.drop()


async def test_a_rollout_hands_over_to_the_new_replicas(installed: Installation) -> None:
    """The sidecar of a replica that waited goes on waiting for its lease until it is killed.

    So it can be the next to hold it, with no driver beside it any more.
    """
    names = [f"data-{number}" for number in range(CLAIMS)]
    await installed.second.controller.end(signal.SIGTERM)
    kept_on = asyncio.create_task(installed.second.sidecar.end(signal.SIGTERM))
    await installed.third.start()
    await installed.third.serves()
    await installed.claim(names)
    await some_twins(installed)
    assert not kept_on.done()

    told = time.monotonic()
    ending = asyncio.create_task(installed.first.end(signal.SIGTERM))
    taken = await installed.led_by(installed.third, since=told)
    await ending

    assert max(taken) < TAKEOVER_SECONDS
    await installed.bound(names)
    await installed.one_twin_each(names)
    await installed.second.sidecar.end(signal.SIGKILL)
    await kept_on
    await installed.drop()


async def test_a_sidecar_whose_driver_died_makes_way(installed: Installation) -> None:
    """Each sidecar calls the driver of its own pod, so without that one it is of no use."""
    await installed.first.controller.end(signal.SIGKILL)
    killed = time.monotonic()
    await installed.claim(["data"])

    taken = await installed.led_by(installed.second, since=killed)

    assert max(taken) < TAKEOVER_SECONDS
    assert await installed.first.sidecar.wait() != 0
    await installed.bound(["data"])
    await installed.one_twin_each(["data"])
    await installed.drop()


async def test_driver_and_sidecar_may_lead_in_different_replicas(installed: Installation) -> None:
    await installed.first.sidecar.end(signal.SIGKILL)
    await control_planes.wait_until(
        installed.consumer, LEASES, PROVISIONER_LEASE, held_by("second")
    )
    names = [f"data-{number}" for number in range(len(PLACES))]

    await installed.claim(names)

    await installed.bound(names)
    await installed.one_twin_each(names)
    lease = await installed.consumer.get(f"{LEASES}/{CONTROLLER_LEASE}")
    assert held_by("first")(lease)
    await installed.drop()
