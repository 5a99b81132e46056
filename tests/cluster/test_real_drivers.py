"""Real classes of a CSI driver: what is made, described, attached and refused.

The real driver and its sidecars are real programs. No kubelet runs here, so mounting is
tested elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from csi_liqo.model import source
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import binaries, control_plane
from tests import control_planes
from tests.cluster import calls, fabric

Code = grpc.StatusCode
Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
CSI_DRIVERS = "/apis/storage.k8s.io/v1/csidrivers"
NODE = "rome-1"


@dataclass(frozen=True, slots=True)
class Real:
    """A running real driver with its sidecars; its class has its name."""

    name: str
    attacher: fabric.Process | None


@contextlib.asynccontextmanager
async def real_driver(
    driver: fabric.Fabric, name: str, *, attach: bool, **spec: object
) -> AsyncIterator[Real]:
    """Run a loop driver for the time of the block, known to Kubernetes and to one node."""
    directory = driver.directory / "real"
    state = directory / "state"
    state.mkdir(parents=True)
    socket = directory / "csi.sock"
    sidecar = [f"--csi-address={socket}", f"--kubeconfig={driver.rome.kubeconfig}"]
    commands = {
        "loopdriver": [
            *("--mode=all", f"--driver-name={name}", f"--state-dir={state}"),
            *(f"--endpoint=unix://{socket}", "--no-registration"),
            *(f"--kubelet-dir={directory}", f"--node-name={NODE}"),
            *(["--attach-required"] if attach else []),
        ],
        "csi-provisioner": [*sidecar, "--strict-topology", "--kube-api-qps=200"],
        **({"csi-attacher": sidecar} if attach else {}),
    }
    running: dict[str, fabric.Process] = {}
    async with _introduced(driver, name, attach=attach, **spec):
        try:
            for program, arguments in commands.items():
                command = [str(fabric.BINARIES / program), *arguments]
                process = fabric.Process(command, directory / f"{program}.log")
                await process.start()
                running[program] = process
            yield Real(name, running.get("csi-attacher"))
        finally:
            for process in running.values():
                await process.end()


@contextlib.asynccontextmanager
async def _introduced(
    driver: fabric.Fabric, name: str, *, attach: bool, **spec: object
) -> AsyncIterator[None]:
    """Write what kubelet and an administrator would write of a driver, and take it back."""
    csi_driver = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": name},
        "spec": {"attachRequired": attach, **spec},
    }
    real_class = fabric.virtual_class(name, {}) | {"provisioner": name}
    drivers = await driver.consumer.create(CSI_DRIVERS, csi_driver)
    classes = await driver.consumer.create(fabric.CLASSES, real_class)
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


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    asyncio.run(binaries.ensure(fabric.BINARIES, ["sidecars", "loopdriver"]))


@pytest.fixture
async def attaching(
    prepared: Planes, tmp_path: pathlib.Path, namespace: str
) -> AsyncIterator[fabric.Fabric]:
    """The driver as deploy/attach installs it."""
    async with fabric.running(*prepared, tmp_path, namespace, attach=True) as running:
        yield running


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


async def test_a_csi_volume_is_described_with_all_that_its_driver_must_be_told(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    async with real_driver(driver, "loop.example.com", attach=False, podInfoOnMount=True) as real:
        await _make_virtual_class(driver, real)
        await driver.claim_on("data", NODE, storage_class=f"virtual-{real.name}")
        _, volume = await driver.bound("data")

        found = source.from_context(volume["spec"]["csi"]["volumeAttributes"])
        assert found.csi is not None
        made = await driver.consumer.get(f"{fabric.VOLUMES}/{found.csi.persistent_volume}")
        assert found.csi.driver == made["spec"]["csi"]["driver"] == real.name
        assert found.csi.handle == made["spec"]["csi"]["volumeHandle"]
        assert found.csi.attributes == made["spec"]["csi"]["volumeAttributes"]
        assert found.csi.pod_info
        assert not found.csi.attach_required
        terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        pinned = {rule["key"]: rule["values"] for rule in terms[0]["matchExpressions"]}
        assert pinned == {fabric.CLUSTER_KEY: ["rome"], f"{real.name}/node": [NODE]}

        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
        await _drop_virtual_class(driver, real)
    assert await driver.settled(before) == []


async def test_a_driver_that_does_not_run_on_the_node_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    async with _introduced(driver, "loop.example.com", attach=False):
        claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
        code, text, _ = await caller.create(
            calls.wish(claim, "rome-2", localClass="loop.example.com")
        )
    assert code is Code.RESOURCE_EXHAUSTED
    assert "the CSI driver loop.example.com of StorageClass" in text
    assert "does not run on node rome-2" in text


@pytest.mark.parametrize(
    ("attach", "spec", "words"),
    [
        pytest.param(True, {}, "install the overlay deploy/attach", id="attach"),
        pytest.param(
            False,
            {"tokenRequests": [{"audience": "vault"}]},
            "wants service account tokens",
            id="tokens",
        ),
    ],
)
async def test_what_a_real_driver_needs_and_cannot_be_given_is_said_beforehand(
    driver: fabric.Fabric,
    caller: calls.Caller,
    attach: bool,
    spec: dict[str, object],
    words: str,
) -> None:
    async with _introduced(driver, "loop.example.com", attach=attach, **spec):
        claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
        code, text, _ = await caller.create(calls.wish(claim, NODE, localClass="loop.example.com"))
    assert code is Code.FAILED_PRECONDITION
    assert words in text


async def test_attaching_makes_an_attachment_of_our_own_and_waits_until_it_is_gone(
    attaching: fabric.Fabric,
) -> None:
    driver = attaching
    before = await driver.snapshot()
    async with (
        real_driver(driver, "attach.loop.example.com", attach=True) as real,
        grpc.aio.insecure_channel(f"unix:{driver.socket}") as channel,
    ):
        stub = csi_pb2_grpc.ControllerStub(channel)
        await _make_virtual_class(driver, real)
        await driver.claim_on("data", NODE, storage_class=f"virtual-{real.name}")
        _, volume = await driver.bound("data")
        outer = await _attach_outer(driver, volume)
        csi = volume["spec"]["csi"]
        publish = csi_pb2.ControllerPublishVolumeRequest(
            volume_id=csi["volumeHandle"],
            node_id=NODE,
            volume_capability=calls.mounted(),
            volume_context=csi["volumeAttributes"],
        )

        first = await stub.ControllerPublishVolume(publish, timeout=20)
        again = await stub.ControllerPublishVolume(publish, timeout=20)

        assert dict(first.publish_context)
        assert first == again
        (inner,) = await _inner_attachments(driver)
        assert inner["spec"]["attacher"] == real.name
        assert inner["metadata"]["name"].startswith("csi-liqo-")
        assert inner["status"]["attachmentMetadata"] == dict(first.publish_context)

        # kube-controller-manager detaches at each start what it knows and no pod wants.
        await driver.rome.restart_component(control_plane.CONTROLLERS)
        again = await stub.ControllerPublishVolume(publish, timeout=20)
        assert first == again

        unpublish = csi_pb2.ControllerUnpublishVolumeRequest(
            volume_id=csi["volumeHandle"], node_id=NODE
        )
        await stub.ControllerUnpublishVolume(unpublish, timeout=20)
        assert await _inner_attachments(driver) == []
        await stub.ControllerUnpublishVolume(unpublish, timeout=20)
        await driver.consumer.delete(f"{ATTACHMENTS}/outer", uid=outer["metadata"]["uid"])

        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
        await _drop_virtual_class(driver, real)
    assert await driver.settled(before) == []


async def test_an_attachment_whose_outer_one_was_removed_by_force_is_collected(
    attaching: fabric.Fabric,
) -> None:
    driver = attaching
    async with (
        real_driver(driver, "attach.loop.example.com", attach=True) as real,
        grpc.aio.insecure_channel(f"unix:{driver.socket}") as channel,
    ):
        await _make_virtual_class(driver, real)
        await driver.claim_on("data", NODE, storage_class=f"virtual-{real.name}")
        _, volume = await driver.bound("data")
        outer = await _attach_outer(driver, volume)
        csi = volume["spec"]["csi"]
        publish = csi_pb2.ControllerPublishVolumeRequest(
            volume_id=csi["volumeHandle"],
            node_id=NODE,
            volume_capability=calls.mounted(),
            volume_context=csi["volumeAttributes"],
        )
        await csi_pb2_grpc.ControllerStub(channel).ControllerPublishVolume(publish, timeout=20)
        (inner,) = await _inner_attachments(driver)

        await driver.consumer.delete(f"{ATTACHMENTS}/outer", uid=outer["metadata"]["uid"])

        await control_planes.wait_until_gone(
            driver.consumer, ATTACHMENTS, inner["metadata"]["name"]
        )
        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
        await _drop_virtual_class(driver, real)


async def _attach_outer(driver: fabric.Fabric, volume: fabric.Json) -> fabric.Json:
    """Make the attachment that kube-controller-manager would make of a virtual volume."""
    attachment = {
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


async def _inner_attachments(driver: fabric.Fabric) -> list[fabric.Json]:
    items = (await driver.consumer.get(ATTACHMENTS))["items"]
    return [item for item in items if item["metadata"]["name"] != "outer"]


async def _make_virtual_class(driver: fabric.Fabric, real: Real) -> None:
    virtual = fabric.virtual_class(f"virtual-{real.name}", {"localClass": real.name})
    await driver.consumer.create(fabric.CLASSES, virtual | {"provisioner": driver.name})


async def _drop_virtual_class(driver: fabric.Fabric, real: Real) -> None:
    path = f"{fabric.CLASSES}/virtual-{real.name}"
    uid = (await driver.consumer.get(path))["metadata"]["uid"]
    await driver.consumer.delete(path, uid=uid)
    await control_planes.wait_until_gone(driver.consumer, fabric.CLASSES, f"virtual-{real.name}")
