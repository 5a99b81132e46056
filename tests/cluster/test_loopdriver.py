"""The lab's loop driver keeps the specification, and refuses where one may refuse.

The tests of csi_liqo on real CSI storage stand on it, so it must be right by itself:
csi-sanity in both modes, data that stays, nothing left behind, and its strictness.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import shutil
import signal
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Iterator
from typing import Final

import grpc
import grpc.aio
import pytest

from csi_liqo.rpc.pb import csi_pb2
from lab import binaries, loop_devices, settings
from tests.cluster import loop_nodes
from tests.cluster.loop_nodes import MEBIBYTE, Node, capability

NOT_NOW: Final = grpc.StatusCode.FAILED_PRECONDITION
KINDS: Final = ("ext4", "xfs", "block")
# What no option of the driver offers; csi-sanity skips it.
NOT_OFFERED: Final = (
    "GroupController",
    "Health",
    "volume attribute class",
    "ModifyVolume",
    "snapshot with accessibility requirements",
    "max attach limit",  # asked for by a flag only
)
ATTACHING: Final = ("ControllerPublish", "ControllerUnpublish", "volume lifecycle")


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    links = settings.DEFAULT_INSTANCE / "bin"
    asyncio.run(binaries.ensure(links, ["loopdriver", "sanity"]))


@pytest.fixture
def directory() -> Iterator[pathlib.Path]:
    """A short path, for sockets; at the end no loop device may stand on what is in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="loop-"))
    yield path
    left = loop_nodes.loops(path)
    shutil.rmtree(path)
    assert left == []


@contextlib.asynccontextmanager
async def running(directory: pathlib.Path, name: str, *options: str) -> AsyncIterator[Node]:
    node = Node(directory, name, *options)
    await node.start()
    try:
        yield node
    finally:
        await node.end()


@pytest.fixture
async def node(directory: pathlib.Path) -> AsyncIterator[Node]:
    async with running(directory, "n1") as started:
        yield started


@contextlib.contextmanager
def refused(code: grpc.StatusCode, text: str = "") -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        yield
    assert refusal.value.code() == code, refusal.value.details()
    assert text in (refusal.value.details() or "")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="not-attaching"),
        pytest.param(["--attach-required", "--node-id=i-1"], id="attaching"),
        pytest.param(["--attach-required", "--topology=false"], id="reached-from-every-node"),
    ],
)
@pytest.mark.parametrize("access", ["mount", "block"])
async def test_csi_sanity_passes(directory: pathlib.Path, options: list[str], access: str) -> None:
    report = directory / "report.xml"
    async with running(directory, "n1", *options) as node:
        sanity = await asyncio.create_subprocess_exec(
            *("nsenter", f"--mount=/proc/{node.process.pid}/ns/mnt"),
            str(settings.DEFAULT_INSTANCE / "bin" / "csi-sanity"),
            f"--csi.endpoint=unix://{node.socket}",
            f"--csi.mountdir={directory}/pods",
            f"--csi.stagingdir={directory}/staging",
            f"--csi.testvolumesize={64 * MEBIBYTE}",
            f"--csi.testvolumeexpandsize={96 * MEBIBYTE}",
            f"--csi.testvolumeaccesstype={access}",
            f"--csi.junitfile={report}",
            "--ginkgo.no-color",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await sanity.communicate()
        mounts = node.run("cat", "/proc/self/mounts")

    assert sanity.returncode == 0, output.decode()[-8000:]
    passed, skipped = read(report)
    expected = NOT_OFFERED if options else (*NOT_OFFERED, *ATTACHING)
    assert [name for name in skipped if not any(part in name for part in expected)] == []
    assert any("ControllerPublishVolume" in name for name in passed) == bool(options)
    assert str(directory) not in mounts
    assert list((node.state / "volumes").iterdir()) == []
    assert list((node.state / "snapshots").iterdir()) == []


def read(report: pathlib.Path) -> tuple[list[str], list[str]]:
    """Return the names of the tests that passed, and of those skipped for a capability."""
    passed, skipped = [], []
    for case in ElementTree.parse(report).iter("testcase"):
        name = re.sub(r"^\[It\] ", "", case.get("name", ""))
        if case.get("status") == "passed":
            passed.append(name)
        elif case.get("status") != "pending":  # csi-sanity's own unfinished ones
            skipped.append(name)
    return passed, skipped


def write(node: Node, path: pathlib.Path, kind: str, text: str) -> None:
    to = path if kind == "block" else path / "data"
    node.run("sh", "-c", f"printf %s '{text}' | dd of={to} conv=notrunc,fsync status=none")


def data(node: Node, path: pathlib.Path, kind: str, length: int) -> str:
    of = path if kind == "block" else path / "data"
    return node.run("head", "-c", str(length), of)


@pytest.mark.parametrize("kind", KINDS)
async def test_data_stays_over_a_release_a_kill_and_a_growth(node: Node, kind: str) -> None:
    wanted = capability(kind)
    volume = await node.create("v", wanted)
    await node.stage(volume, wanted)
    target = await node.publish(volume, wanted)
    write(node, target, kind, "kept")

    await node.release(volume)
    assert loop_nodes.loops(node.state) == []
    assert not target.exists()

    await node.stage(volume, wanted)
    target = await node.publish(volume, wanted)
    grown = csi_pb2.CapacityRange(required_bytes=400 * MEBIBYTE)
    await node.controller.ControllerExpandVolume(
        csi_pb2.ControllerExpandVolumeRequest(volume_id=volume.volume_id, capacity_range=grown)
    )
    at_once = kind != "ext4" or may_grow_mounted_ext4(node)
    with contextlib.nullcontext() if at_once else refused(NOT_NOW, "CAP_SYS_RESOURCE"):
        await node.node.NodeExpandVolume(
            csi_pb2.NodeExpandVolumeRequest(
                volume_id=volume.volume_id, volume_path=str(target), capacity_range=grown
            )
        )
    assert (await size(node, volume) > 325 * MEBIBYTE) == at_once
    assert data(node, target, kind, 4) == "kept"

    # Its mount namespace ends with it: all mounts go, as when a node goes down.
    await node.process.end(signal.SIGKILL)
    await node.start()
    await node.stage(volume, wanted)
    target = await node.publish(volume, wanted)
    assert data(node, target, kind, 4) == "kept"
    assert await size(node, volume) > 325 * MEBIBYTE
    await node.release(volume)
    await node.delete(volume)


async def size(node: Node, volume: csi_pb2.Volume) -> int:
    request = csi_pb2.NodeGetVolumeStatsRequest(
        volume_id=volume.volume_id, volume_path=str(node.target(volume))
    )
    return (await node.node.NodeGetVolumeStats(request)).usage[0].total


def may_grow_mounted_ext4(node: Node) -> bool:
    """Tell whether the driver has CAP_SYS_RESOURCE, which containers may lack."""
    status = pathlib.Path(f"/proc/{node.process.pid}/status").read_text()
    effective = re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
    assert effective is not None
    return bool(int(effective[1], 16) >> 24 & 1)


async def test_what_a_node_that_ended_had_as_a_device_is_found_by_its_image(node: Node) -> None:
    wanted = capability("block")
    volume = await node.create("v", wanted)
    await node.stage(volume, wanted)
    target = await node.publish(volume, wanted)
    node.run("losetup", "--find", target)  # as kubelet does
    image = node.state / "volumes" / f"{volume.volume_id}.img"
    await node.process.end(signal.SIGKILL)

    assert len(await loop_devices.detach([image])) == 2

    assert loop_nodes.loops(node.state) == []
    await node.start()
    await node.stage(volume, wanted)
    await node.release(volume)


@pytest.mark.parametrize("kind", KINDS)
async def test_copies_have_the_data_of_their_moment(node: Node, kind: str) -> None:
    wanted = capability(kind)
    volume = await node.create("v", wanted)
    await node.stage(volume, wanted)
    target = await node.publish(volume, wanted)
    write(node, target, kind, "then")
    node.run("sync", "--file-system", target) if kind != "block" else None
    snapshot = await node.controller.CreateSnapshot(
        csi_pb2.CreateSnapshotRequest(name="s", source_volume_id=volume.volume_id)
    )
    write(node, target, kind, "late")
    source = csi_pb2.VolumeContentSource()
    source.snapshot.snapshot_id = snapshot.snapshot.snapshot_id

    copy = await node.create("copy", wanted, mebibytes=360, source=source)
    await node.stage(copy, wanted)
    target = await node.publish(copy, wanted)

    assert data(node, target, kind, 4) == "then"
    source.Clear()
    source.volume.volume_id = copy.volume_id
    clone = await node.create("clone", wanted, mebibytes=360, source=source)
    await node.stage(clone, wanted)  # beside its source, whose UUID an xfs has too
    target = await node.publish(clone, wanted)
    assert data(node, target, kind, 4) == "then"
    for each in (volume, copy, clone):
        await node.release(each)


async def test_it_stages_only_with_what_the_controller_handed_out(directory: pathlib.Path) -> None:
    wanted = capability("ext4")
    reached = ("--attach-required", "--topology=false")
    async with running(directory, "n1", *reached) as n1, running(directory, "n2", *reached) as n2:
        volume = await n1.create("v", wanted)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "not attached to n1"):
            await n1.stage(volume, wanted)
        handed_out = await n1.attach(volume, wanted)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "publish_context"):
            await n1.stage(volume, wanted)
        await n1.stage(volume, wanted, handed_out)

        with refused(grpc.StatusCode.FAILED_PRECONDITION, "attached to n1"):
            await n2.attach(volume, wanted)
        detach = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume.volume_id, node_id="n1")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "still staged on n1"):
            await n2.controller.ControllerUnpublishVolume(detach)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "attached to n1"):
            await n1.delete(volume)
        await n1.unstage(volume)
        for _ in range(2):  # gone already is gone
            await n2.controller.ControllerUnpublishVolume(detach)

        await n2.stage(volume, wanted, await n2.attach(volume, wanted))
        await n2.unstage(volume)


async def test_a_second_writer_and_a_second_node_are_refused(directory: pathlib.Path) -> None:
    reached = ("--topology=false",)
    async with running(directory, "n1", *reached) as n1, running(directory, "n2", *reached) as n2:
        alone = capability("ext4", "SINGLE_NODE_SINGLE_WRITER")
        volume = await n1.create("v", alone)
        await n1.stage(volume, alone)
        await n1.publish(volume, alone)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "one target"):
            await n1.publish(volume, alone, target=n1.folder / "second")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "in use on n1"):
            await n2.stage(volume, alone)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "in use on n1"):
            await n2.delete(volume)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "still published"):
            await n1.unstage(volume)
        await n1.release(volume)

        readers = capability("ext4", "MULTI_NODE_READER_ONLY")
        for each in (n1, n2):
            await each.stage(volume, readers)
            target = await each.publish(volume, readers)
            assert " ro," in each.run("findmnt", "--noheadings", "--mountpoint", target)
        for each in (n1, n2):
            await each.release(volume)


async def test_data_that_is_no_file_system_is_never_formatted(node: Node) -> None:
    block, mount = capability("block"), capability("ext4")
    volume = await node.create("v", block)
    await node.stage(volume, block)
    write(node, await node.publish(volume, block), "block", "precious")
    await node.release(volume)

    with refused(grpc.StatusCode.FAILED_PRECONDITION, "no known file system"):
        await node.stage(volume, mount)

    assert loop_nodes.loops(node.state) == []


async def test_a_fault_of_the_control_file_strikes_as_often_as_it_says(node: Node) -> None:
    wanted = capability("ext4")
    volume = await node.create("v", wanted)
    faults = node.state / "faults.json"
    fault = {"code": "UNAVAILABLE", "message": "away", "times": 1, "after": True}
    faults.write_text(json.dumps({"NodeStageVolume": fault}))

    with refused(grpc.StatusCode.UNAVAILABLE, "away"):
        await node.stage(volume, wanted)

    assert loop_nodes.loops(node.state)  # done, and the answer lost
    await node.stage(volume, wanted)
    assert json.loads(faults.read_text())["NodeStageVolume"]["times"] == 0
    assert [call["code"] for call in node.calls("NodeStageVolume")] == ["Unavailable", "OK"]
    await node.unstage(volume)


async def test_secrets_and_pod_information_are_demanded_when_it_is_told_to(
    directory: pathlib.Path,
) -> None:
    options = ("--require-secret=key=open", "--require-pod-info")
    async with running(directory, "n1", *options) as node:
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id="v",
            target_path=str(directory / "t"),
            staging_target_path=str(directory / "s"),
            volume_capability=capability("ext4"),
        )
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "secret key is missing"):
            await node.node.NodePublishVolume(request)
        request.secrets["key"] = "wrong"
        with refused(grpc.StatusCode.UNAUTHENTICATED):
            await node.node.NodePublishVolume(request)
        request.secrets["key"] = "open"
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "csi.storage.k8s.io/pod.name"):
            await node.node.NodePublishVolume(request)

        noted = [call["request"]["secrets"] for call in node.calls("NodePublishVolume")[1:]]
        assert noted == [{"key": "***"}] * 2  # named, never told


async def test_capacity_ends_where_it_is_told_to(directory: pathlib.Path) -> None:
    async with running(directory, "n1", f"--capacity-bytes={100 * MEBIBYTE}") as node:
        wanted = capability("ext4")
        await node.create("first", wanted, mebibytes=64)
        answer = await node.controller.GetCapacity(csi_pb2.GetCapacityRequest())
        assert answer.available_capacity == 36 * MEBIBYTE
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "n1"):
            await node.create("second", wanted, mebibytes=64)
