"""`csi-liqo dispose` looks once more before it deletes: nobody's data goes, whatever happened.

The twins are made by hand, as a controller leaves them behind that lost volume and claim.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from csi_liqo.app import recovering, tools
from csi_liqo.model import errors
from csi_liqo.service.controller import adoption
from csi_liqo.service.tools import told
from lab import api, control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import fabric, hands

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

FINALIZER: Final = "csi.liqo.io/twin"
GIVEN: Final = told.Told(cluster_id="rome", source=told.Source.CSI_LIQO)
STATES: Final = ("started", "abandoned", "retained")
WRITES: Final = {
    "rome": ("PATCH", "PATCH", "DELETE"),
    "milan": ("PATCH", "DELETE"),
}
"""What deleting a twin takes: the fence opened for it, the finalizer off, and its end."""
EACH_WRITE: Final = [
    pytest.param(cluster, number, id=f"{cluster}-{number}")
    for cluster, methods in WRITES.items()
    for number in range(1, len(methods) + 1)
]


@dataclass(frozen=True, slots=True)
class Left:
    """A bound twin that was handed over, and that neither volume nor claim names."""

    driver: fabric.Fabric
    cluster: str
    home: api.Api
    collection: str
    manifest: fabric.Json
    uid: str

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return fabric.TWINS if self.cluster == "rome" else self.driver.remote_namespace

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def wish(self) -> adoption.Wish:
        return adoption.Wish.of(self.cluster, self.reference)

    @property
    def writes(self) -> rules.Match:
        return rules.Match(resource="persistentvolumeclaims", name=self.name, is_write=True)

    async def find(self) -> fabric.Json | None:
        found: fabric.Json | None = await self.home.find(f"{self.collection}/{self.name}")
        return found

    async def untouched(self) -> None:
        twin = await self.find()
        assert twin is not None
        assert twin["metadata"]["uid"] == self.uid
        assert FINALIZER in twin["metadata"]["finalizers"]
        assert "deletionTimestamp" not in twin["metadata"]

    async def force_away(self) -> None:
        path = f"{self.collection}/{self.name}"
        found = await self.find()
        if found is not None:
            await self.home.merge(path, fabric.OPENED)
            await self.home.merge(path, {"metadata": {"finalizers": None}})
            await self.home.delete(path, uid=found["metadata"]["uid"])
        await control_planes.wait_until_gone(self.home, self.collection, self.name)


async def leave(
    driver: fabric.Fabric, cluster: str, claim_uid: str = "of-nobody", *, retained: bool = False
) -> Left:
    """Leave a twin behind in a cluster."""
    name = f"left-{driver.namespace}"[:60].rstrip("-") if cluster == "rome" else "left"
    manifest = fabric.claim(name, storage_class="hostpath")
    annotations = {
        "csi.liqo.io/claim": f"{driver.namespace}/left",
        "csi.liqo.io/claim-uid": claim_uid,
        "csi.liqo.io/handed-over": "true",
        "csi.liqo.io/virtual-class": "csi-liqo",
    }
    if retained:
        annotations["csi.liqo.io/retained"] = f'{{"name":"left-{driver.namespace}"}}'
    manifest["metadata"] |= {
        "labels": {
            "csi.liqo.io/volume": f"left-{driver.namespace}"[:60].rstrip("-"),
            "csi.liqo.io/consumer": "rome",
        },
        "annotations": annotations,
        "finalizers": [FINALIZER],
    }
    home = driver.consumer if cluster == "rome" else driver.provider
    collection = driver.twins if cluster == "rome" else driver.remote_claims
    await home.create(collection, manifest)
    made = await control_planes.wait_until(
        *(home, collection, name),
        lambda item: (item or {}).get("status", {}).get("phase") == "Bound",
    )
    assert made is not None
    return Left(driver, cluster, home, collection, manifest, made["metadata"]["uid"])


async def dispose(kubeconfig: Path, left: Left) -> bool:
    where = tools.Where(kubeconfig)
    return await recovering.dispose(where, GIVEN, left.driver.name, left.wish, lambda _: True)


async def states_of(left: Left) -> list[str]:
    """Return as what the program lists a twin."""
    where = tools.Where(left.driver.rome.kubeconfig)
    found, hidden = await recovering.twins_left(where, GIVEN, left.driver.name, STATES)
    assert hidden == ()
    wanted = (left.cluster, left.reference)
    return [one.state for one in found if (one.cluster, one.twin) == wanted]


@pytest.fixture
async def driver(
    prepared: Planes, tmp_path: Path, namespace: str, milan_proxy: proxy.FaultProxy
) -> AsyncIterator[fabric.Fabric]:
    text = milan_proxy.kubeconfig.read_text()
    async with fabric.running(
        *(*prepared, tmp_path, namespace), provider_kubeconfig=text
    ) as running:
        yield running


@pytest.mark.parametrize("by", ["claim", "volume"])
async def test_a_twin_in_use_stays_though_no_cache_shows_who_uses_it(
    driver: fabric.Fabric, at_rome: proxy.FaultProxy, by: str
) -> None:
    before = await driver.snapshot()
    async with hands.hands(driver, consumer_kubeconfig=at_rome.kubeconfig) as late:
        at_rome.silence_watches(rules.WATCHES)
        claim_uid = "of-nobody"
        if by == "claim":  # it waits for its volume, which this twin may become
            claim = await driver.consumer.create(driver.claims, fabric.claim("left"))
            claim_uid = claim["metadata"]["uid"]
        left = await leave(driver, "milan", claim_uid)
        if by == "volume":
            async with hands.hands(driver) as other:
                await other.entry("milan", left.namespace, left.name)
                await other.adoption.adopt(left.wish)
        await late.entry("milan", left.namespace, left.name)

        with pytest.raises(errors.PreconditionError, match=f"belongs to claim {driver.namespace}"):
            await late.disposal.delete(left.wish, uid=left.uid)

        await left.untouched()
    await driver.drop("left")
    await end_adopted(left)
    assert await driver.settled(before) == []


async def end_adopted(left: Left) -> None:
    """Delete what was adopted, or what nobody adopted, with its data."""
    volume = left.manifest["metadata"]["labels"]["csi.liqo.io/volume"]
    path = f"{fabric.VOLUMES}/{volume}"
    found = await left.driver.consumer.find(path)
    if found is not None:
        await left.driver.consumer.merge(path, {"metadata": {"finalizers": None}})
        await left.driver.consumer.delete(path, uid=found["metadata"]["uid"])
        await left.driver.volume_gone(volume)
    await left.force_away()


async def test_a_twin_that_is_adopted_while_the_person_is_asked_stays(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    left = await leave(driver, "milan", retained=True)

    def adopts(shown: recovering.Left) -> bool:
        assert shown.state == "retained"
        command = ("adopt", "milan", left.reference, "--consumer-id=rome")
        code, _, complaint = asyncio.run(fabric.program(driver.rome, *command))
        assert code == 0, complaint
        return True

    where = tools.Where(driver.rome.kubeconfig)
    with pytest.raises(errors.PreconditionError, match="belongs to"):
        await recovering.dispose(where, GIVEN, driver.name, left.wish, adopts)

    await left.untouched()
    await end_adopted(left)
    assert await driver.settled(before) == []


async def test_a_twin_of_a_volume_of_the_other_installation_stays(driver: fabric.Fabric) -> None:
    """Two installations share one cluster's twins; the volume may have any name."""
    before = await driver.snapshot()
    left = await leave(driver, "rome")
    handle = left.manifest["metadata"]["labels"]["csi.liqo.io/volume"]
    here = {"key": fabric.CLUSTER_KEY, "operator": "In", "values": ["rome"]}
    volume: fabric.Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"of-another-{driver.namespace}"},
        "spec": {
            "capacity": {"storage": "64Mi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "csi-liqo-attach",
            "claimRef": {"namespace": driver.namespace, "name": "left"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "csi": {
                "driver": fabric.ATTACHING_DRIVER,
                "volumeHandle": handle,
                "volumeAttributes": {
                    "consumer": "rome",
                    "twin": f"{left.namespace}/{left.name}/{left.uid}",
                },
            },
        },
    }
    made = await driver.consumer.create(fabric.VOLUMES, volume)

    with pytest.raises(errors.PreconditionError, match="belongs to PersistentVolume of-another-"):
        await dispose(driver.rome.kubeconfig, left)

    await left.untouched()
    path = f"{fabric.VOLUMES}/{volume['metadata']['name']}"
    await driver.consumer.delete(path, uid=made["metadata"]["uid"])
    await driver.volume_gone(made["metadata"]["name"])
    assert await dispose(driver.rome.kubeconfig, left)
    assert await driver.settled(before) == []


async def test_nothing_is_deleted_where_another_cluster_answers_for_the_provider(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    left = await leave(driver, "milan")
    await driver.controller.end()
    status = f"{fabric.REMOTE_CLUSTERS}/milan/status"
    known = (await driver.consumer.get(f"{fabric.REMOTE_CLUSTERS}/milan"))["status"]["identity"]
    await driver.consumer.merge(status, {"status": {"identity": "of-the-one-before"}})

    with pytest.raises(errors.OutcomeUnknownError, match="another cluster answers for milan"):
        await dispose(driver.rome.kubeconfig, left)

    await left.untouched()
    await driver.consumer.merge(status, {"status": {"identity": known}})
    assert await dispose(driver.rome.kubeconfig, left)
    with pytest.raises(errors.VolumeNotFoundError):
        await dispose(driver.rome.kubeconfig, left)
    await driver.controller.start()
    assert await driver.settled(before) == []


@pytest.mark.parametrize(("cluster", "number"), EACH_WRITE)
async def test_another_twin_that_has_the_name_by_the_time_of_a_write_stays(
    driver: fabric.Fabric,
    at_rome: proxy.FaultProxy,
    milan_proxy: proxy.FaultProxy,
    cluster: str,
    number: int,
) -> None:
    before = await driver.snapshot()
    first = await leave(driver, cluster)
    way = at_rome if cluster == "rome" else milan_proxy
    pause = way.pause_at(number, rules.When.BEFORE, first.writes)
    task = asyncio.create_task(dispose(at_rome.kubeconfig, first))
    await pause.wait_until_reached()
    await first.force_away()
    second = await leave(driver, cluster)
    pause.release()
    with contextlib.suppress(errors.ComeBackError):
        await task

    await second.untouched()
    assert await dispose(driver.rome.kubeconfig, second)
    assert await driver.settled(before) == []


@pytest.mark.parametrize(("cluster", "number"), EACH_WRITE)
@pytest.mark.parametrize("when", list(rules.When), ids=lambda when: when.name.lower())
async def test_what_a_killed_command_leaves_is_listed_and_goes_by_the_next(
    driver: fabric.Fabric,
    at_rome: proxy.FaultProxy,
    milan_proxy: proxy.FaultProxy,
    cluster: str,
    number: int,
    when: rules.When,
) -> None:
    before = await driver.snapshot()
    retained = cluster == "milan"
    left = await leave(driver, cluster, retained=retained)
    way = at_rome if cluster == "rome" else milan_proxy
    pause = way.pause_at(number, when, left.writes)
    task = asyncio.create_task(dispose(at_rome.kubeconfig, left))
    held = await pause.wait_until_reached()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    pause.drop()
    assert held.method == WRITES[cluster][number - 1]

    if number == len(WRITES[cluster]) and when is rules.When.AFTER:
        await control_planes.wait_until_gone(left.home, left.collection, left.name)
        assert await states_of(left) == []
    else:
        assert await states_of(left) == ["retained" if retained else "abandoned"]
        assert await dispose(driver.rome.kubeconfig, left)
    assert await left.find() is None
    assert len(way.writes(left.writes)) >= number
    assert await driver.settled(before) == []
