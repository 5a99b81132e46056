"""A twin that somebody deleted is made again around its data, whatever interrupts that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from csi_liqo.model import errors
from lab import api, control_plane, templates
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
    f"POST {CLAIM}",
    f"PATCH {VOLUME}",
    f"PATCH {CLAIM}",
    f"PATCH {VOLUME}",
)
"""Retain, the finalizer off, the new twin, its volume, a mark on it, the policy as it was."""


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
        directory = str(real["spec"]["hostPath"]["path"]).rsplit("/", 1)[1]
        return self.plane.hostpath_directory / directory / "marker"

    async def delete_twin(self) -> fabric.Json:
        """Delete the twin as somebody who should not; returns it as it was before."""
        twin = await self.twin()
        path = f"{self.collection}/{self.twin_name}"
        if not self.remote:
            await self.home.merge(path, fabric.OPENED)
        await self.home.delete(path, uid=twin["metadata"]["uid"])
        return twin

    async def lose_twin(self) -> fabric.Json:
        """Delete a remote twin and wait until that is told, and nobody writes any more."""
        await self._shows("Healthy")
        twin = await self.delete_twin()
        await self._shows("TwinDeleted")
        return twin

    async def _shows(self, health: str) -> None:
        for path, name in ((fabric.VOLUMES, self.name), (self.driver.claims, "data")):
            await control_planes.wait_until(self.driver.consumer, path, name, has_health(health))

    async def see_it_is_whole(self, before: fabric.Json, real: fabric.Json) -> None:
        """See the successor of a twin: another object, all else as it was."""
        twin = await self.twin()
        assert twin["metadata"]["uid"] != before["metadata"]["uid"]
        assert "deletionTimestamp" not in twin["metadata"]
        assert twin["metadata"]["labels"] == before["metadata"]["labels"]
        for key, value in before["metadata"]["annotations"].items():
            if not key.startswith("pv.kubernetes.io/") and key != "csi.liqo.io/successor-of":
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
    async with hands.hands(
        driver,
        consumer_kubeconfig=proxies[0].kubeconfig,
        provider_kubeconfig=proxies[1].kubeconfig,
    ) as use:
        await victim.lose_twin()
        await use.repair.repair(victim.name)
        assert told(proxies[0]) == ROME_WRITES
        assert told(proxies[1]) == MILAN_WRITES
        for server, count in ((proxies[0], len(ROME_WRITES)), (proxies[1], len(MILAN_WRITES))):
            for number in range(1, count + 1):
                for when in rules.When:
                    twin = await victim.lose_twin()
                    pause = server.pause_at(number, when)
                    task = asyncio.create_task(use.repair.repair(victim.name))
                    await pause.wait_until_reached()
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    pause.drop()
                    await use.repair.repair(victim.name)
                    await victim.see_it_is_whole(twin, real)
                    assert marker.read_text() == "precious"

                twin = await victim.lose_twin()
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
    await victim.lose_twin()

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
    pod = templates.pod(victim.twin_name, "milan-1")
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


def policy_of(real: fabric.Json) -> str:
    return str(real["spec"]["persistentVolumeReclaimPolicy"])


def closed(namespace: str, reason: str) -> list[fabric.Json]:
    """A policy by which nothing may be changed at a claim of a namespace."""
    kind = "admissionregistration.k8s.io/v1"
    about = {"name": f"closed-{namespace}"}
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": ["persistentvolumeclaims"],
        "operations": ["CREATE", "UPDATE"],
    }
    own = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"namespaceSelector": own, "resourceRules": [rule]},
        "matchConditions": [
            {
                "name": "by-a-consumer",
                "expression": f"request.userInfo.username == '{fabric.CONSUMER_USER}'",
            }
        ],
        "validations": [
            {"expression": "false", "message": "storage is closed today", "reason": reason}
        ],
    }
    bound = {"policyName": about["name"], "validationActions": ["Deny"]}
    return [
        {"apiVersion": kind, "kind": f"ValidatingAdmissionPolicy{what}", "metadata": about} | more
        for what, more in (("", {"spec": spec}), ("Binding", {"spec": bound}))
    ]


async def refused(driver: fabric.Fabric, *, wanted: bool) -> None:
    """Wait until the policy is in force, or no longer is: nothing announces it."""
    rights = driver.milan.kubeconfig_for(fabric.CONSUMER_USER)
    async with await api.Api.of(rights) as consumer, asyncio.timeout(30):
        while True:
            try:
                path = driver.remote_claims
                made = fabric.claim("tried", storage_class="hostpath-wffc")
                await consumer.request("POST", path, body=made, params={"dryRun": "All"})
                found = False
            except api.ApiError as error:
                found = "storage is closed today" in error.message
            if found == wanted:
                return
            await asyncio.sleep(0.2)


@pytest.mark.usefixtures("granted")
@pytest.mark.parametrize("reason", ["Invalid", "Forbidden"])
async def test_what_a_policy_says_against_a_repair_is_told_and_nothing_is_lost(
    driver: fabric.Fabric, reason: str
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    marker = await victim.marker()
    twin = await victim.lose_twin()
    text = yaml.safe_dump_all(closed(driver.remote_namespace, reason))
    fabric.kubectl(driver.milan, "apply", "-f", "-", text=text)
    async with hands.hands(driver) as use:
        try:
            await refused(driver, wanted=True)
            with pytest.raises(errors.PreconditionError, match="storage is closed today"):
                await use.repair.repair(victim.name)
        finally:
            fabric.kubectl(driver.milan, "delete", "-f", "-", text=text)
        assert "csi.liqo.io/twin" in (await victim.twin())["metadata"]["finalizers"]
        await refused(driver, wanted=False)
        await use.repair.repair(victim.name)
    await victim.see_it_is_whole(twin, real)
    assert marker.read_text() == "precious"
    await driver.drop("data")
    await driver.volume_gone(victim.name)


@pytest.mark.usefixtures("granted")
async def test_a_claim_that_takes_the_twins_name_meanwhile_gets_nothing_of_its_data(
    driver: fabric.Fabric, proxies: tuple[proxy.FaultProxy, proxy.FaultProxy]
) -> None:
    """As of a tenant of the provider, at the moment at which nobody has the name."""
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    marker = await victim.marker()
    twin = await victim.lose_twin()
    path = f"{victim.collection}/{victim.twin_name}"
    name = real["metadata"]["name"]
    async with hands.hands(driver, provider_kubeconfig=proxies[1].kubeconfig) as use:
        pause = proxies[1].pause_at(3, rules.When.BEFORE)
        task = asyncio.create_task(use.repair.repair(victim.name))
        await pause.wait_until_reached()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        pause.drop()

        # It would get the volume, were that reserved for the name of a claim.
        theirs = fabric.claim(victim.twin_name, storage_class="hostpath")
        theirs["metadata"]["finalizers"] = ["example.com/theirs"]
        made = await driver.provider.create(victim.collection, theirs)
        bound = await control_planes.wait_until(
            *(driver.provider, victim.collection, victim.twin_name),
            lambda item: (item or {}).get("status", {}).get("phase") == "Bound",
        )
        assert bound is not None
        other = f"{fabric.VOLUMES}/{bound['spec']['volumeName']}"
        before = (await driver.provider.get(other))["spec"]
        for _ in range(2):
            with pytest.raises(errors.PreconditionError, match="was taken meanwhile"):
                await use.repair.repair(victim.name)
            kept = await driver.provider.get(f"{fabric.VOLUMES}/{name}")
            assert kept["spec"]["claimRef"]["uid"] == victim.first_uid
            assert policy_of(kept) == "Retain"
            assert (await driver.provider.get(other))["spec"] == before
            # The second time it is being deleted, as a twin is that is to be repaired again.
            if "deletionTimestamp" not in (await driver.provider.get(path))["metadata"]:
                await driver.provider.delete(path, uid=made["metadata"]["uid"])
        await driver.provider.merge(path, {"metadata": {"finalizers": None}})
        await control_planes.wait_until_gone(driver.provider, victim.collection, victim.twin_name)
        await use.repair.repair(victim.name)
    await victim.see_it_is_whole(twin, real)
    assert marker.read_text() == "precious"
    await driver.drop("data")
    await driver.volume_gone(victim.name)


@pytest.mark.usefixtures("granted")
async def test_of_two_repairs_at_once_one_is_told_to_look_again(
    driver: fabric.Fabric, proxies: tuple[proxy.FaultProxy, proxy.FaultProxy]
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    twin = await victim.lose_twin()
    async with (
        hands.hands(driver, consumer_kubeconfig=proxies[0].kubeconfig) as slow,
        hands.hands(driver) as quick,
    ):
        pause = proxies[0].pause_at(1, rules.When.BEFORE)
        task = asyncio.create_task(slow.repair.repair(victim.name))
        await pause.wait_until_reached()
        await quick.repair.repair(victim.name)
        pause.release()
        with pytest.raises(errors.OperationPendingError, match="repair again"):
            await task
        again = await slow.repair.repair(victim.name)
    assert again.uid == (await victim.twin())["metadata"]["uid"]
    await victim.see_it_is_whole(twin, real)
    await driver.drop("data")
    await driver.volume_gone(victim.name)


@pytest.mark.usefixtures("granted")
async def test_a_twin_is_not_let_go_while_its_real_volume_is_being_deleted(
    driver: fabric.Fabric,
) -> None:
    victim = await make_victim(driver, "milan")
    real = await victim.real()
    marker = await victim.marker()
    await victim.lose_twin()
    path = f"{fabric.VOLUMES}/{real['metadata']['name']}"
    await driver.provider.delete(path, uid=real["metadata"]["uid"])

    async with hands.hands(driver) as use:
        with pytest.raises(errors.PreconditionError, match="is being deleted, too"):
            await use.repair.repair(victim.name)

    assert "csi.liqo.io/twin" in (await victim.twin())["metadata"]["finalizers"]
    assert marker.read_text() == "precious"
    await driver.drop("data")
    await driver.volume_gone(victim.name)
