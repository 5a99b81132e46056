"""A twin that somebody deleted is made again around its data, whatever interrupts that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from csi_liqo.model import errors
from lab import control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import fabric, hands
from tests.cluster.test_status_back import has_health

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

CLAIM: Final = "persistentvolumeclaims"
VOLUME: Final = "persistentvolumes"
ROLE: Final = "csi-liqo-consumer-repair"

ROME_WRITES: Final = (f"PATCH {VOLUME}", f"PATCH {VOLUME}", f"PATCH {VOLUME}")
"""The note on the virtual volume, the new twin's name there, and the note off again."""
MILAN_WRITES: Final = (
    f"PATCH {VOLUME}",
    f"PATCH {CLAIM}",
    f"PATCH {VOLUME}",
    f"POST {CLAIM}",
    f"PATCH {VOLUME}",
)
"""Retain, the finalizer off, the reservation, the new twin, the policy as it was."""


@pytest.fixture
def granted(prepared: Planes) -> Iterator[None]:
    """The provider lets the consumer repair."""
    to = (f"--clusterrole={ROLE}", f"--user={fabric.CONSUMER_USER}")
    fabric.kubectl(prepared[1], "create", "clusterrolebinding", ROLE, *to)
    yield
    fabric.kubectl(prepared[1], "delete", "clusterrolebinding", ROLE)


class Victim:
    """A bound volume with data, whose twin somebody deletes."""

    def __init__(self, driver: fabric.Fabric, node: str, volume: fabric.Json) -> None:
        self.driver = driver
        self.remote = node == "milan"
        self.home = driver.provider if self.remote else driver.consumer
        self.plane = driver.milan if self.remote else driver.rome
        self.name = volume["metadata"]["name"]
        named = volume["spec"]["csi"]["volumeAttributes"]["twin"]
        self.namespace, self.twin_name, self.first_uid = named.split("/")
        self.collection = fabric.claims_in(self.namespace)

    async def twin(self) -> fabric.Json:
        return await self.home.get(f"{self.collection}/{self.twin_name}")

    async def real(self) -> fabric.Json:
        twin = await self.twin()
        return await self.home.get(f"{fabric.VOLUMES}/{twin['spec']['volumeName']}")

    async def marker(self) -> Path:
        """A file in the volume, as a pod would have written it."""
        real = await self.real()
        directory = real["spec"]["hostPath"]["path"].rsplit("/", 1)[1]
        return self.plane.hostpath_directory / directory / "marker"

    async def delete_twin(self) -> fabric.Json:
        """Delete the twin as somebody who should not; returns it as it was before."""
        twin = await self.twin()
        path = f"{self.collection}/{self.twin_name}"
        await self.home.delete(path, uid=twin["metadata"]["uid"])
        return twin

    async def see_it_is_whole(self, before: fabric.Json, real: fabric.Json) -> None:
        """See the successor of a twin: another object, all else as it was."""
        twin = await self.twin()
        assert twin["metadata"]["uid"] != before["metadata"]["uid"]
        assert "deletionTimestamp" not in twin["metadata"]
        assert twin["metadata"]["labels"] == before["metadata"]["labels"]
        for key, value in before["metadata"]["annotations"].items():
            if not key.startswith("pv.kubernetes.io/"):
                assert twin["metadata"]["annotations"][key] == value
        assert "csi.liqo.io/twin" in twin["metadata"]["finalizers"]
        assert twin["spec"] == before["spec"]
        assert twin["status"]["phase"] == "Bound"
        now = await self.real()
        assert now["metadata"]["uid"] == real["metadata"]["uid"]
        assert now["spec"]["claimRef"]["uid"] == twin["metadata"]["uid"]
        policy = "persistentVolumeReclaimPolicy"
        assert now["spec"][policy] == real["spec"][policy]
        volume = await self.driver.consumer.get(f"{fabric.VOLUMES}/{self.name}")
        annotations = volume["metadata"]["annotations"]
        reference = f"{self.namespace}/{self.twin_name}/{twin['metadata']['uid']}"
        assert annotations["csi.liqo.io/repaired-twin"] == reference
        assert "csi.liqo.io/restore" not in annotations


async def make_victim(driver: fabric.Fabric, node: str) -> Victim:
    await driver.claim_on("data", node)
    _, volume = await driver.bound("data")
    victim = Victim(driver, node, volume)
    (await victim.marker()).write_text("precious")
    return victim


async def is_healthy(victim: Victim) -> None:
    """Wait until the volume shows that all is well; a local one then shows nothing."""

    def well(item: fabric.Json | None) -> bool:
        if victim.remote:
            return has_health("Healthy")(item)
        return "csi.liqo.io/health" not in (item or {})["metadata"].get("annotations", {})

    await control_planes.wait_until(victim.driver.consumer, fabric.VOLUMES, victim.name, well)


@pytest.mark.usefixtures("granted")
@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_deleted_twin_is_made_again_with_its_data_and_its_marks(
    driver: fabric.Fabric, node: str
) -> None:
    before = await driver.snapshot()
    victim = await make_victim(driver, node)
    real = await victim.real()
    marker = await victim.marker()
    async with hands.hands(driver) as use:
        twin = await victim.delete_twin()
        await control_planes.wait_until(
            driver.consumer, fabric.VOLUMES, victim.name, has_health("TwinDeleted")
        )
        await use.repair.repair(victim.name)
        await victim.see_it_is_whole(twin, real)
        again = await use.repair.repair(victim.name)
    assert again.uid == (await victim.twin())["metadata"]["uid"]
    assert marker.read_text() == "precious"
    await is_healthy(victim)

    await driver.drop("data")
    await driver.volume_gone(victim.name)
    assert await driver.settled(before) == []
    assert not marker.exists()


@pytest.fixture
async def proxies(
    prepared: Planes, tmp_path: Path
) -> AsyncIterator[tuple[proxy.FaultProxy, proxy.FaultProxy]]:
    rome, milan = prepared
    rights = milan.kubeconfig_for(fabric.CONSUMER_USER)
    async with (
        proxy.FaultProxy(rome.kubeconfig, tmp_path / "by-hand-rome") as before_rome,
        proxy.FaultProxy(rights, tmp_path / "by-hand-milan") as before_milan,
    ):
        yield before_rome, before_milan


def told(server: proxy.FaultProxy, since: int = 0) -> tuple[str, ...]:
    return tuple(f"{item.method} {item.target.resource}" for item in server.writes()[since:])


@pytest.mark.usefixtures("granted")
@pytest.mark.timeout(300)
async def test_a_repair_that_ends_at_any_write_is_finished_by_the_next(
    driver: fabric.Fabric, proxies: tuple[proxy.FaultProxy, proxy.FaultProxy]
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    marker = await victim.marker()
    through = {
        "consumer_kubeconfig": proxies[0].kubeconfig,
        "provider_kubeconfig": proxies[1].kubeconfig,
    }
    async with hands.hands(driver, **through) as use:
        await victim.delete_twin()
        await use.repair.repair(victim.name)
        assert told(proxies[0]) == ROME_WRITES
        assert told(proxies[1]) == MILAN_WRITES
        for server, count in ((proxies[0], len(ROME_WRITES)), (proxies[1], len(MILAN_WRITES))):
            for number in range(1, count + 1):
                for when in rules.When:
                    twin = await victim.delete_twin()
                    pause = server.pause_at(number, when)
                    task = asyncio.create_task(use.repair.repair(victim.name))
                    await pause.wait_until_reached()
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    pause.drop()
                    await use.repair.repair(victim.name)
                    await victim.see_it_is_whole(twin, real)
                    assert marker.read_text() == "precious"

                twin = await victim.delete_twin()
                server.fail(rules.CHANGES, nth=number)
                with pytest.raises(errors.OutcomeUnknownError, match="repair again"):
                    await use.repair.repair(victim.name)
                await use.repair.repair(victim.name)
                await victim.see_it_is_whole(twin, real)
    assert marker.read_text() == "precious"
    await is_healthy(victim)
    await driver.drop("data")
    await driver.volume_gone(victim.name)


async def test_a_repair_without_the_rights_says_which_and_changes_nothing(
    driver: fabric.Fabric,
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    await victim.delete_twin()

    async with hands.hands(driver, reads_volumes=False) as use:
        with pytest.raises(errors.PreconditionError, match="csi-liqo-consumer-volumes"):
            await use.repair.repair(victim.name)
    async with hands.hands(driver) as use:
        with pytest.raises(errors.PreconditionError, match=ROLE):
            await use.repair.repair(victim.name)

    twin = await victim.twin()
    assert twin["metadata"]["uid"] == victim.first_uid
    assert "csi.liqo.io/twin" in twin["metadata"]["finalizers"]
    assert (await victim.real())["spec"] == real["spec"]
    to = (f"--clusterrole={ROLE}", f"--user={fabric.CONSUMER_USER}")
    fabric.kubectl(driver.milan, "create", "clusterrolebinding", ROLE, *to)
    try:
        async with hands.hands(driver) as use:
            await use.repair.repair(victim.name)
    finally:
        fabric.kubectl(driver.milan, "delete", "clusterrolebinding", ROLE)
    await driver.drop("data")
    await driver.volume_gone(victim.name)


@pytest.mark.usefixtures("granted")
async def test_a_twin_that_pods_still_use_has_its_data_kept_until_they_are_gone(
    driver: fabric.Fabric,
) -> None:
    victim = await make_victim(driver, "milan")
    pods = f"/api/v1/namespaces/{driver.remote_namespace}/pods"
    pod = fabric.pod(victim.twin_name, "milan-1")
    pod["spec"]["nodeName"] = "milan-1"
    made = await driver.provider.create(pods, pod)
    twin = await victim.delete_twin()
    real = await victim.real()

    async with hands.hands(driver) as use:
        with pytest.raises(errors.PreconditionError, match=r"still used .*pvc-protection"):
            await use.repair.repair(victim.name)
        kept = await victim.real()
        assert kept["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        path = f"{pods}/{victim.twin_name}"
        await driver.provider.delete(path, uid=made["metadata"]["uid"], grace_seconds=0)
        await control_planes.wait_until(
            driver.provider,
            victim.collection,
            victim.twin_name,
            lambda item: (item or {})["metadata"].get("finalizers") == ["csi.liqo.io/twin"],
        )
        await use.repair.repair(victim.name)
    await victim.see_it_is_whole(twin, real)
    await driver.drop("data")
    await driver.volume_gone(victim.name)


@pytest.mark.usefixtures("granted")
async def test_a_twin_that_is_gone_is_made_again_if_its_real_volume_was_kept(
    driver: fabric.Fabric,
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    marker = await victim.marker()
    path = f"{fabric.VOLUMES}/{real['metadata']['name']}"
    await driver.provider.merge(path, {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    await victim.delete_twin()
    await driver.provider.merge(
        f"{victim.collection}/{victim.twin_name}", {"metadata": {"finalizers": None}}
    )
    await control_planes.wait_until_gone(driver.provider, victim.collection, victim.twin_name)
    await control_planes.wait_until(
        driver.consumer, fabric.VOLUMES, victim.name, has_health("TwinGone")
    )

    async with hands.hands(driver) as use:
        twin = await use.repair.repair(victim.name)

    assert twin.handed_over
    assert twin.volume_id == victim.name
    assert twin.spec.volume_name == real["metadata"]["name"]
    assert marker.read_text() == "precious"
    await is_healthy(victim)
    await driver.provider.merge(path, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    await driver.drop("data")
    await driver.volume_gone(victim.name)


@pytest.mark.usefixtures("granted")
async def test_a_twin_whose_data_went_with_it_is_not_replaced_by_an_empty_one(
    driver: fabric.Fabric,
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    await victim.delete_twin()
    await driver.provider.merge(
        f"{victim.collection}/{victim.twin_name}", {"metadata": {"finalizers": None}}
    )
    name = real["metadata"]["name"]
    await control_planes.wait_until_gone(driver.provider, fabric.VOLUMES, name)

    async with hands.hands(driver) as use:
        with pytest.raises(errors.PreconditionError, match="its data was deleted with it"):
            await use.repair.repair(victim.name)

    assert await driver.provider.find(f"{victim.collection}/{victim.twin_name}") is None
    await driver.drop("data")
    await driver.volume_gone(victim.name)
