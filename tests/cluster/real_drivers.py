"""Real CSI drivers for the tests: programs, sidecars, and what makes them known to a cluster.

No kubelet runs here, so what kubelet would write of a driver is written by hand, and no
volume is mounted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from csi_liqo.rpc.pb import csi_pb2
from tests import control_planes
from tests.cluster import calls, fabric

ATTACHMENTS: Final = "/apis/storage.k8s.io/v1/volumeattachments"
CSI_DRIVERS: Final = "/apis/storage.k8s.io/v1/csidrivers"
NODE: Final = "rome-1"
PROGRAMS: Final = ("sidecars", "loopdriver")


@contextlib.asynccontextmanager
async def running(
    driver: fabric.Fabric,
    name: str,
    *,
    attach: bool = False,
    options: Sequence[str] = (),
    parameters: Mapping[str, str] | None = None,
    **spec: object,
) -> AsyncIterator[str]:
    """Run a loop driver in the consumer; yields its name, which its class has, too.

    `options` are the driver's own, `parameters` the class's, `spec` fields of its CSIDriver.
    """
    told = [*options, *(["--attach-required"] if attach else [])]
    async with (
        introduced(driver, name, attach=attach, parameters=parameters, **spec),
        _programs(driver, name, NODE, told, attach=attach),
    ):
        yield name


@contextlib.asynccontextmanager
async def running_in_provider(driver: fabric.Fabric, name: str) -> AsyncIterator[str]:
    """Run a loop driver in the provider, which offers its class; every node reaches its volumes."""
    real_class = _real_class(name, {}, volumeBindingMode="Immediate")
    real_class["metadata"]["labels"] = {"csi.liqo.io/offered": "true"}
    made = await driver.provider.create(fabric.CLASSES, real_class)
    try:
        async with _programs(driver, name, "milan-1", ["--topology=false"], remote=True):
            yield name
    finally:
        uid = made["metadata"]["uid"]
        await driver.provider.delete(f"{fabric.CLASSES}/{name}", uid=uid)


@contextlib.asynccontextmanager
async def _programs(
    driver: fabric.Fabric,
    name: str,
    node: str,
    options: Sequence[str],
    *,
    attach: bool = False,
    remote: bool = False,
) -> AsyncIterator[None]:
    directory = driver.directory / "real"
    state = directory / "state"
    state.mkdir(parents=True)
    socket = directory / "csi.sock"
    plane = driver.milan if remote else driver.rome
    sidecar = [f"--csi-address={socket}", f"--kubeconfig={plane.kubeconfig}"]
    commands = {
        "loopdriver": [
            *("--mode=all", f"--driver-name={name}", f"--state-dir={state}"),
            *(f"--endpoint=unix://{socket}", "--no-registration"),
            *(f"--kubelet-dir={directory}", f"--node-name={node}", *options),
        ],
        "csi-provisioner": [*sidecar, "--strict-topology", "--kube-api-qps=200"],
        **({"csi-attacher": sidecar} if attach else {}),
    }
    started: list[fabric.Process] = []
    try:
        for program, arguments in commands.items():
            command = [str(fabric.BINARIES / program), *arguments]
            process = fabric.Process(command, directory / f"{program}.log")
            await process.start()
            started.append(process)
        yield
    finally:
        for process in started:
            await process.end()


@contextlib.asynccontextmanager
async def introduced(
    driver: fabric.Fabric,
    name: str,
    *,
    attach: bool = False,
    parameters: Mapping[str, str] | None = None,
    **spec: object,
) -> AsyncIterator[None]:
    """Write what kubelet and an administrator would write of a driver, and take it back."""
    csi_driver = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": name},
        "spec": {"attachRequired": attach, **spec},
    }
    drivers = await driver.consumer.create(CSI_DRIVERS, csi_driver)
    classes = await driver.consumer.create(fabric.CLASSES, _real_class(name, parameters or {}))
    entry = {"name": name, "nodeID": NODE, "topologyKeys": [f"{name}/node"]}
    path = f"{fabric.CSI_NODES}/{NODE}"
    before = (await driver.consumer.get(path))["spec"]["drivers"]
    labels = {f"{name}/node": NODE}
    await driver.consumer.merge(f"{fabric.NODES}/{NODE}", {"metadata": {"labels": labels}})
    await driver.consumer.merge(path, {"spec": {"drivers": [*before, entry]}})
    try:
        yield
    finally:
        await driver.consumer.merge(path, {"spec": {"drivers": before}})
        for collection, made in ((CSI_DRIVERS, drivers), (fabric.CLASSES, classes)):
            uid = made["metadata"]["uid"]
            await driver.consumer.delete(f"{collection}/{name}", uid=uid)


def _real_class(name: str, parameters: Mapping[str, str], **more: str) -> fabric.Json:
    return fabric.virtual_class(name, dict(parameters), **more) | {"provisioner": name}


@contextlib.asynccontextmanager
async def virtual_class(driver: fabric.Fabric, real: str, **parameters: str) -> AsyncIterator[str]:
    """Have a virtual class over a real one, wherever its pod is sent; yields its name."""
    name = f"virtual-{real}"
    whole = {"localClass": real, "remoteClass": real, **parameters}
    forged = fabric.virtual_class(name, whole) | {"provisioner": driver.name}
    made = await driver.consumer.create(fabric.CLASSES, forged)
    try:
        yield name
    finally:
        path = f"{fabric.CLASSES}/{name}"
        await driver.consumer.delete(path, uid=made["metadata"]["uid"])
        await control_planes.wait_until_gone(driver.consumer, fabric.CLASSES, name)


def publish_request(volume: fabric.Json) -> csi_pb2.ControllerPublishVolumeRequest:
    """The request that csi-attacher sends for a virtual volume."""
    csi = volume["spec"]["csi"]
    return csi_pb2.ControllerPublishVolumeRequest(
        volume_id=csi["volumeHandle"],
        node_id=NODE,
        volume_capability=calls.mounted(),
        volume_context=csi["volumeAttributes"],
    )


def unpublish_request(volume: fabric.Json) -> csi_pb2.ControllerUnpublishVolumeRequest:
    """The request by which csi-attacher takes that back."""
    handle = volume["spec"]["csi"]["volumeHandle"]
    return csi_pb2.ControllerUnpublishVolumeRequest(volume_id=handle, node_id=NODE)


async def attach_outer(driver: fabric.Fabric, volume: fabric.Json) -> fabric.Json:
    """Make the attachment that kube-controller-manager would make of a virtual volume."""
    attachment: dict[str, Any] = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"name": "outer"},
        "spec": {
            "attacher": driver.name,
            "nodeName": NODE,
            "source": {"persistentVolumeName": volume["metadata"]["name"]},
        },
    }
    return await driver.consumer.create(ATTACHMENTS, attachment)


async def detach_outer(driver: fabric.Fabric) -> None:
    """Ask for the end of that attachment, if there is one."""
    outer = await driver.consumer.find(f"{ATTACHMENTS}/outer")
    if outer is not None:
        await driver.consumer.delete(f"{ATTACHMENTS}/outer", uid=outer["metadata"]["uid"])


async def inner_attachments(driver: fabric.Fabric) -> list[fabric.Json]:
    """Return the attachments of real volumes."""
    items = (await driver.consumer.get(ATTACHMENTS))["items"]
    return [item for item in items if item["metadata"]["name"] != "outer"]
