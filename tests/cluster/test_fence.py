"""The twins' namespace is fenced: deploy/ keeps everybody but the driver out of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab import api, control_plane, templates
from tests import control_planes
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

NAMESPACE = f"/api/v1/namespaces/{fabric.TWINS}"
CONFIG_MAPS = f"{NAMESPACE}/configmaps"


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(api.ApiError) as refusal:
        yield
    for word in words:
        assert word in refusal.value.message


async def make_twin(driver: fabric.Fabric, storage_class: str = "csi-liqo") -> str:
    """Make a volume in this cluster, and return the path of its twin."""
    await driver.claim_on("data", "rome-1", storage_class=storage_class)
    _, volume = await driver.bound("data")
    return f"{driver.twins}/{volume['metadata']['name']}"


async def delete(driver: fabric.Fabric, path: str) -> None:
    uid = (await driver.consumer.get(path))["metadata"]["uid"]
    await driver.consumer.delete(path, uid=uid)


async def drop_all(driver: fabric.Fabric, twin: str) -> None:
    name = twin.rpartition("/")[2]
    await driver.drop("data")
    await driver.volume_gone(name)
    assert await driver.consumer.find(twin) is None


async def said(driver: fabric.Fabric, answer: str) -> None:
    """Wait until the controller says whether there are twins."""
    await control_planes.wait_until(
        driver.consumer,
        CONFIG_MAPS,
        "csi-liqo-fence",
        lambda item: (item or {}).get("data", {}).get("twins") == answer,
    )


@pytest.fixture
async def attaching(
    prepared: Planes, tmp_path: Path, namespace: str
) -> AsyncIterator[fabric.Fabric]:
    """The installation of deploy/attach, which shares namespace and fence with the other."""
    async with fabric.running(*prepared, tmp_path, namespace, attach=True) as running:
        yield running


async def test_no_pod_runs_among_the_twins(driver: fabric.Fabric) -> None:
    twin = await make_twin(driver)
    pod = templates.pod(twin.rpartition("/")[2], "rome-1")
    # As the namespace's own pod security wants it, which would refuse it before.
    pod["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    with refused("no pod may run in namespace csi-liqo-storage", "use the virtual claim"):
        await driver.consumer.create(f"{NAMESPACE}/pods", pod)
    await drop_all(driver, twin)


async def test_a_twin_is_deleted_by_its_driver_and_by_nobody_else(driver: fabric.Fabric) -> None:
    before = await driver.snapshot()
    twin = await make_twin(driver)
    with refused(
        f"delete the virtual claim {driver.namespace}/data instead",
        f"label pvc {twin.rpartition('/')[2]} csi.liqo.io/fence=open",
    ):
        await delete(driver, twin)
    assert "deletionTimestamp" not in (await driver.consumer.get(twin))["metadata"]

    await drop_all(driver, twin)
    assert await driver.settled(before) == []


async def test_who_opens_the_fence_of_a_twin_may_delete_it(driver: fabric.Fabric) -> None:
    before = await driver.snapshot()
    twin = await make_twin(driver)
    await driver.consumer.merge(twin, fabric.OPENED)
    await delete(driver, twin)
    await driver.consumer.merge(twin, {"metadata": {"finalizers": None}})
    await control_planes.wait_until_gone(driver.consumer, driver.twins, twin.rpartition("/")[2])
    await driver.drop("data")
    await driver.volume_gone(twin.rpartition("/")[2])
    assert await driver.settled(before) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"finalizers": None}}, id="finalizer"),
        pytest.param({"metadata": {"labels": {"csi.liqo.io/consumer": "milan"}}}, id="owner"),
        pytest.param({"metadata": {"labels": {"csi.liqo.io/volume": None}}}, id="volume"),
        pytest.param(
            {"metadata": {"annotations": {"csi.liqo.io/handed-over": None}}}, id="handed-over"
        ),
        pytest.param({"spec": {"volumeAttributesClassName": "fast"}}, id="spec"),
    ],
)
async def test_what_the_driver_goes_by_is_changed_by_nobody_else(
    driver: fabric.Fabric, change: fabric.Json
) -> None:
    twin = await make_twin(driver)
    with refused("are the driver's to change", "csi.liqo.io/fence=open"):
        await driver.consumer.merge(twin, change)
    await drop_all(driver, twin)


async def test_others_may_mark_a_twin_and_take_their_marks_off(driver: fabric.Fabric) -> None:
    """Provisioners, resizers and snapshotters do, each under a name of its own."""
    twin = await make_twin(driver)
    finalizers = (await driver.consumer.get(twin))["metadata"]["finalizers"]
    for change in (
        {"annotations": {"example.com/note": "a"}, "labels": {"team": "b"}},
        {"finalizers": [*finalizers, "example.com/snapshot"]},
        {"finalizers": finalizers, "annotations": {"example.com/note": None}},
    ):
        await driver.consumer.merge(twin, {"metadata": change})
    await drop_all(driver, twin)


async def test_two_installations_share_the_namespace_and_its_fence_lets_both_in(
    attaching: fabric.Fabric,
) -> None:
    driver = attaching
    before = await driver.snapshot()
    await driver.consumer.create(
        fabric.CLASSES,
        fabric.virtual_class("csi-liqo-fenced", {}) | {"provisioner": driver.name},
    )
    twin = await make_twin(driver, "csi-liqo-fenced")
    await said(driver, "yes")
    with refused("delete the virtual claim"):
        await delete(driver, twin)
    with refused("holds the data of virtual volumes"):
        await delete(driver, NAMESPACE)
    await drop_all(driver, twin)
    await said(driver, "no")
    await delete(driver, f"{fabric.CLASSES}/csi-liqo-fenced")
    assert await driver.settled(before) == []


async def test_the_namespace_stays_as_long_as_there_is_a_twin(driver: fabric.Fabric) -> None:
    twin = await make_twin(driver)
    await said(driver, "yes")
    with refused(
        "namespace csi-liqo-storage holds the data of virtual volumes",
        "kubectl label namespace csi-liqo-storage csi.liqo.io/fence=open",
    ):
        await delete(driver, NAMESPACE)
    await drop_all(driver, twin)
    await said(driver, "no")

    try:
        await accepted(driver)
        await control_planes.wait_until_gone(driver.consumer, "/api/v1/namespaces", fabric.TWINS)
    finally:
        fabric.kubectl(driver.rome, "apply", "-k", str(fabric.ROOT / "deploy"))
    # The controller notices the new ConfigMap by itself, and serves as before.
    twin = await make_twin(driver)
    await drop_all(driver, twin)


async def test_who_opens_the_fence_of_the_namespace_may_delete_it(driver: fabric.Fabric) -> None:
    """Asked of the API server without doing it: data is lost by that."""
    twin = await make_twin(driver)
    await said(driver, "yes")
    await driver.consumer.merge(NAMESPACE, fabric.OPENED)
    try:
        await accepted(driver, dry=True)
    finally:
        await driver.consumer.merge(
            NAMESPACE, {"metadata": {"labels": {"csi.liqo.io/fence": None}}}
        )
    await drop_all(driver, twin)


async def test_without_the_config_map_the_namespace_stays(driver: fabric.Fabric) -> None:
    """It comes back with the manifests, empty, and the driver says what is so."""
    await said(driver, "no")
    await driver.controller.end()  # it says what is so as soon as there is one again
    try:
        await delete(driver, f"{CONFIG_MAPS}/csi-liqo-fence")
        await answered(driver, "no params found", dry=True)
    finally:
        fabric.kubectl(driver.rome, "apply", "-k", str(fabric.ROOT / "deploy"))
    await answered(driver, "has not said yet", dry=True)

    await driver.controller.start()
    await said(driver, "no")


@pytest.mark.parametrize("wrong", ["yes", "", None])
async def test_what_somebody_else_tells_the_fence_is_undone(
    driver: fabric.Fabric, wrong: str | None
) -> None:
    await said(driver, "no")
    await driver.consumer.merge(f"{CONFIG_MAPS}/csi-liqo-fence", {"data": {"twins": wrong}})
    await said(driver, "no")


async def accepted(driver: fabric.Fabric, *, dry: bool = False) -> None:
    """Delete the namespace until that is accepted."""
    await answered(driver, "", dry=dry)


async def answered(driver: fabric.Fabric, wanted: str, *, dry: bool) -> None:
    """Delete the namespace until the refusal has some words, or there is none.

    Admission may be a moment behind what it goes by, and nothing announces what it has seen.
    """
    query = {"dryRun": "All"} if dry else {}
    async with asyncio.timeout(20):
        while True:
            message = ""
            try:
                await driver.consumer.request("DELETE", NAMESPACE, params=query)
            except api.ApiError as error:
                message = error.message
            if message == wanted or (wanted and wanted in message):
                return
            await asyncio.sleep(0.2)
