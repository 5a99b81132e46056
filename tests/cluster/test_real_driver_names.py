"""What the controller tells the node plugins: the CSI drivers behind its classes.

Covered: the ConfigMap follows classes, their default and CSIDrivers; each installation has
its own; one that is missing is written once it is there; what others write there is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

from lab import api, control_plane
from tests import control_planes
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

CONFIG_MAPS = "/api/v1/namespaces/csi-liqo/configmaps"
CSI_DRIVERS = "/apis/storage.k8s.io/v1/csidrivers"
NAME = "csi-liqo-real-drivers"
DEFAULT = "storageclass.kubernetes.io/is-default-class"


async def told(consumer: api.Api, *names: str, name: str = NAME) -> None:
    """Wait until the ConfigMap names exactly these drivers."""
    wanted = {"drivers.json": json.dumps(names, separators=(",", ":"))}
    await control_planes.wait_until(
        consumer, CONFIG_MAPS, name, lambda item: (item or {}).get("data") == wanted
    )


async def said(driver: fabric.Fabric, words: str) -> None:
    """Wait until the controller has logged something."""
    async with asyncio.timeout(20):
        while words not in driver.controller.log.read_text():
            assert not driver.controller.ended
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def made(consumer: api.Api, collection: str, manifest: fabric.Json) -> AsyncIterator[str]:
    """Have an object for the time of the block; its path is given."""
    created = await consumer.create(collection, manifest)
    path = f"{collection}/{created['metadata']['name']}"
    try:
        yield path
    finally:
        await consumer.delete(path, uid=created["metadata"]["uid"])


def csi_driver(name: str) -> fabric.Json:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": name},
        "spec": {"attachRequired": False},
    }


def real_class(name: str, *, default: bool = False) -> fabric.Json:
    """A class of the CSI driver of the same name."""
    marks = {"annotations": {DEFAULT: "true"}} if default else {}
    return fabric.virtual_class(name, {}) | {
        "provisioner": name,
        "metadata": {"name": name, **marks},
    }


async def test_the_names_follow_classes_and_drivers(driver: fabric.Fabric) -> None:
    consumer, classes = driver.consumer, fabric.CLASSES
    # The classes of the manifests have a default and a static one, neither of a CSI driver.
    await told(consumer)
    async with made(consumer, classes, fabric.virtual_class("v", {"localClass": "b.example.com"})):
        async with (
            made(consumer, classes, real_class("b.example.com")),
            made(consumer, CSI_DRIVERS, csi_driver("b.example.com")),
        ):
            await told(consumer, "b.example.com")
            async with (
                made(consumer, CSI_DRIVERS, csi_driver("a.example.com")),
                made(consumer, classes, real_class("a.example.com", default=True)) as newest,
            ):
                # csi-liqo names no class, so it uses the newest default.
                await told(consumer, "a.example.com", "b.example.com")
                no_default = {"metadata": {"annotations": {DEFAULT: "false"}}}
                await consumer.merge(newest, no_default)
                await told(consumer, "b.example.com")
        await told(consumer)


async def test_a_config_map_that_was_deleted_is_written_when_it_is_back(
    driver: fabric.Fabric,
) -> None:
    consumer = driver.consumer
    await told(consumer)
    config_map = await consumer.get(f"{CONFIG_MAPS}/{NAME}")
    await consumer.delete(f"{CONFIG_MAPS}/{NAME}", uid=config_map["metadata"]["uid"])
    async with (
        made(consumer, CSI_DRIVERS, csi_driver("a.example.com")),
        made(consumer, fabric.CLASSES, real_class("a.example.com", default=True)),
    ):
        await said(driver, f'{NAME}" not found: apply the manifests again')
        kept = ("name", "namespace", "labels", "annotations")
        metadata = {key: config_map["metadata"][key] for key in kept}
        await consumer.create(CONFIG_MAPS, config_map | {"metadata": metadata, "data": {}})
        await told(consumer, "a.example.com")
    await told(consumer)


async def test_names_that_somebody_else_writes_are_undone(driver: fabric.Fabric) -> None:
    await told(driver.consumer)
    wrong = {"data": {"drivers.json": '["other.example.com"]'}}
    await driver.consumer.merge(f"{CONFIG_MAPS}/{NAME}", wrong)
    await told(driver.consumer)


async def test_an_installation_that_attaches_has_its_own(
    prepared: Planes, tmp_path: pathlib.Path, namespace: str
) -> None:
    own = f"{NAME}-attach"
    async with fabric.running(*prepared, tmp_path, namespace, attach=True) as driver:
        consumer, classes = driver.consumer, fabric.CLASSES
        virtual = fabric.virtual_class("attach", {"localClass": "a.example.com"})
        await told(consumer, name=own)
        async with (
            made(consumer, CSI_DRIVERS, csi_driver("a.example.com")),
            made(consumer, classes, real_class("a.example.com")),
            made(consumer, classes, virtual | {"provisioner": "csi.liqo.io-attach"}),
        ):
            await told(consumer, "a.example.com", name=own)
        await told(consumer, name=own)
