"""Data that was kept is found again, given to a claim again, or deleted on command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from csi_liqo.app import twin_metrics
from csi_liqo.model import errors
from csi_liqo.service.controller import adoption, inventory
from lab import control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import fabric, hands
from tests.cluster.test_repair import Victim

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

RETAINING: Final = "csi-liqo-retain"
REMEMBERED: Final = "csi.liqo.io/retained"


async def make_volume(driver: fabric.Fabric, node: str, storage_class: str) -> Victim:
    """Make a bound volume with data in it."""
    if await driver.consumer.find(f"{fabric.CLASSES}/{RETAINING}") is None:
        retaining = fabric.virtual_class(RETAINING, {}, reclaimPolicy="Retain")
        await driver.consumer.create(fabric.CLASSES, retaining)
    await driver.claim_on("data", node, storage_class=storage_class)
    _, volume = await driver.bound("data")
    made = Victim(driver, node, volume)
    (await made.marker()).write_text("precious")
    return made


async def remembered(made: Victim) -> None:
    """Wait until the twin remembers its released volume."""
    await control_planes.wait_until(
        made.home,
        made.collection,
        made.twin_name,
        lambda item: REMEMBERED in (item or {})["metadata"]["annotations"],
    )


async def delete_volume(made: Victim, *, by_force: bool = False) -> None:
    """Delete the virtual volume's object, as an administrator may who keeps the data."""
    path = f"{fabric.VOLUMES}/{made.name}"
    found = await made.driver.consumer.get(path)
    await made.driver.consumer.delete(path, uid=found["metadata"]["uid"])
    if by_force:
        await made.driver.consumer.merge(path, {"metadata": {"finalizers": None}})
    await made.driver.volume_gone(made.name)


def wish(made: Victim, **more: str) -> adoption.Wish:
    cluster = "milan" if made.remote else "rome"
    return adoption.Wish(cluster_id=cluster, namespace=made.namespace, name=made.twin_name, **more)


async def seen_without_volume(use: hands.Hands, made: Victim) -> inventory.Entry:
    """Return what the inventory says of a twin, once its volume is known to be gone."""
    await use.consumer.volumes.wait("", made.name, lambda volume: volume is None or None)
    await use.consumer.claims.wait(
        made.driver.namespace, "data", lambda claim: claim is None or None
    )
    return await use.entry(wish(made).cluster_id, made.namespace, made.twin_name)


def comparable(volume: fabric.Json) -> Any:
    """A virtual volume without what the provisioner and the binding put there."""
    spec = {key: value for key, value in volume["spec"].items() if key != "claimRef"}
    attributes = dict(spec["csi"]["volumeAttributes"])
    attributes.pop("storage.kubernetes.io/csiProvisionerIdentity", None)
    terms = [
        sorted(term["matchExpressions"], key=lambda rule: str(rule["key"]))
        for term in spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    ]
    source = {**spec["csi"], "volumeAttributes": attributes}
    return {**spec, "csi": source, "nodeAffinity": terms}


async def claim_again(made: Victim) -> fabric.Json:
    """Make a claim of the old name and see it get the old data; returns its volume."""
    driver = made.driver
    first = await driver.consumer.create(
        driver.claims, fabric.claim("data", storage_class=RETAINING)
    )
    _, volume = await driver.bound("data")
    assert volume["metadata"]["name"] == made.name
    assert (await made.marker()).read_text() == "precious"
    twin = await control_planes.wait_until(
        made.home,
        made.collection,
        made.twin_name,
        lambda item: (
            (item or {})["metadata"]["annotations"]["csi.liqo.io/claim-uid"]
            == first["metadata"]["uid"]
        ),
    )
    assert twin is not None
    assert REMEMBERED not in twin["metadata"]["annotations"]
    return volume


async def end(made: Victim) -> None:
    """Delete claim and volume with the data."""
    policy = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    await made.driver.consumer.merge(f"{fabric.VOLUMES}/{made.name}", policy)
    await made.driver.drop("data")
    await made.driver.volume_gone(made.name)


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_retained_volume_is_made_again_as_it_was_and_has_its_data(
    driver: fabric.Fabric, node: str
) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, node, RETAINING)
    if made.remote:
        await control_planes.wait_until(
            driver.consumer,
            driver.claims,
            "data",
            lambda item: "csi.liqo.io/health" in (item or {})["metadata"]["annotations"],
        )
    original = await driver.consumer.get(f"{fabric.VOLUMES}/{made.name}")
    await driver.drop("data")
    await remembered(made)
    await delete_volume(made)

    async with hands.hands(driver) as use:
        entry = await seen_without_volume(use, made)
        assert entry.state is inventory.State.RETAINED
        assert entry.claim == f"{driver.namespace}/data"
        await use.adoption.adopt(wish(made))
        adopted = await driver.consumer.get(f"{fabric.VOLUMES}/{made.name}")
        again = await use.adoption.adopt(wish(made))
    assert comparable(adopted) == comparable(original)
    assert adopted["spec"]["claimRef"]["name"] == "data"
    assert again.uid == adopted["metadata"]["uid"]

    await claim_again(made)
    await end(made)
    assert await driver.settled(before) == []


async def test_a_released_volume_is_given_to_the_next_claim_of_its_name(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, "rome-1", RETAINING)
    await driver.drop("data")
    await remembered(made)

    async with hands.hands(driver) as use:
        await use.consumer.volumes.wait(
            "", made.name, lambda v: (v is not None and v.status.phase == "Released") or None
        )
        entry = await use.entry("rome", made.namespace, made.twin_name)
        assert entry.state is inventory.State.RETAINED
        await use.adoption.adopt(wish(made))

    await claim_again(made)
    await end(made)
    assert await driver.settled(before) == []


async def abandon(made: Victim) -> None:
    """Lose a virtual volume and its claim as only force can."""
    await delete_volume(made, by_force=True)
    await made.driver.drop("data")


async def test_an_abandoned_twin_is_counted_and_adopted_whatever_interrupts_that(
    driver: fabric.Fabric, at_rome: proxy.FaultProxy
) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, "milan", RETAINING)
    await abandon(made)

    async with hands.hands(driver, consumer_kubeconfig=at_rome.kubeconfig) as use:
        entry = await seen_without_volume(use, made)
        assert entry.state is inventory.State.ABANDONED
        assert counted(use)["milan", "abandoned"] == 1
        at_rome.fail()
        with pytest.raises(errors.OutcomeUnknownError):
            await use.adoption.adopt(wish(made))
        for when in rules.When:
            pause = at_rome.pause_at(1, when)
            task = asyncio.create_task(use.adoption.adopt(wish(made)))
            await pause.wait_until_reached()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            pause.drop()
        await use.adoption.adopt(wish(made))
        assert len(at_rome.writes()) == 3  # refused, held back, and done; then none was needed

    adopted = await driver.consumer.get(f"{fabric.VOLUMES}/{made.name}")
    assert adopted["spec"]["persistentVolumeReclaimPolicy"] == "Retain"  # as its class says
    await claim_again(made)
    await end(made)
    assert await driver.settled(before) == []


def counted(use: hands.Hands) -> dict[tuple[str, str], float]:
    gauges = twin_metrics.TwinGauges(use.consumer, use.everywhere, use.inventory)
    return {
        (sample.labels["cluster"], sample.labels["state"]): sample.value
        for metric in gauges.collect()
        for sample in metric.samples
        if sample.name == "csi_liqo_twins"
    }


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_an_abandoned_twin_is_deleted_only_by_command_whatever_interrupts_that(
    driver: fabric.Fabric, node: str, prepared: Planes, tmp_path: Path
) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, node, "csi-liqo")
    marker = await made.marker()
    async with hands.hands(driver) as use:
        with pytest.raises(errors.PreconditionError, match="belongs to PersistentVolume"):
            await use.disposal.delete(wish(made), uid=made.first_uid)
    await abandon(made)
    rome, milan = prepared
    upstream = milan.kubeconfig_for(fabric.CONSUMER_USER) if made.remote else rome.kubeconfig
    async with proxy.FaultProxy(upstream, tmp_path / "home") as home:
        side = "provider_kubeconfig" if made.remote else "consumer_kubeconfig"
        ways: dict[str, Any] = {side: home.kubeconfig}
        async with hands.hands(driver, **ways) as use:
            entry = await seen_without_volume(use, made)
            assert entry.state is inventory.State.ABANDONED
            with pytest.raises(errors.PreconditionError, match="another one now"):
                await use.disposal.delete(wish(made), uid="of-another")
            assert marker.exists()
            pause = home.pause_at(1, rules.When.AFTER)
            task = asyncio.create_task(use.disposal.delete(wish(made), uid=made.first_uid))
            await pause.wait_until_reached()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            pause.drop()
            for _ in range(2):
                await use.disposal.delete(wish(made), uid=made.first_uid)
    assert await driver.settled(before) == []
    assert not marker.exists()


async def test_what_is_not_ours_or_in_use_is_never_adopted(driver: fabric.Fabric) -> None:
    before = await driver.snapshot()
    made = await make_volume(driver, "milan", "csi-liqo")
    foreign = fabric.claim("foreign", storage_class="hostpath-wffc")
    theirs = await driver.provider.create(driver.remote_claims, foreign)
    another = fabric.claim("another", storage_class="hostpath-wffc")
    another["metadata"]["labels"] = {
        "csi.liqo.io/consumer": "florence",
        "csi.liqo.io/volume": "pvc-of-florence",
    }
    florence = await driver.provider.create(driver.remote_claims, another)
    started = fabric.claim("started", storage_class="hostpath-wffc")
    started["metadata"]["labels"] = {
        "csi.liqo.io/consumer": "rome",
        "csi.liqo.io/volume": "pvc-started",
    }
    begun = await driver.provider.create(driver.remote_claims, started)

    def named(name: str, **more: str) -> adoption.Wish:
        return adoption.Wish(
            cluster_id="milan", namespace=driver.remote_namespace, name=name, **more
        )

    async with hands.hands(driver) as use:
        await use.entry("milan", made.namespace, made.twin_name)
        for name, words in (
            ("foreign", "is no twin of cluster rome"),
            ("another", "is no twin of cluster rome"),
            ("started", "was never handed over"),
        ):
            with pytest.raises(errors.PreconditionError, match=words):
                await use.adoption.adopt(named(name))
            with pytest.raises(errors.PreconditionError, match=words):
                await use.disposal.delete(named(name), uid="any")
        with pytest.raises(errors.VolumeNotFoundError):
            await use.adoption.adopt(named("nothing"))
        with pytest.raises(errors.PreconditionError, match="in a namespace that is mapped"):
            await use.adoption.adopt(named("data", claim=f"{driver.namespace}/renamed"))
        bound = await use.adoption.adopt(named("data"))  # it has what it would be given
        assert bound.status.phase == "Bound"
    for item in (theirs, florence, begun):
        path = f"{driver.remote_claims}/{item['metadata']['name']}"
        found = await driver.provider.find(path)
        if found is not None:
            await driver.provider.delete(path, uid=found["metadata"]["uid"])
    await driver.drop("data")
    await driver.volume_gone(made.name)
    assert await driver.settled(before) == []
