"""Volumes of a real CSI driver: what it is sent, and that the node always converges."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib

import pytest

from csi_liqo.rpc.pb import csi_pb2
from tests.host import node_box, real_driver
from tests.host.kubelet_calls import Kubelet, Volume, calling, eventually, refused
from tests.host.real_driver import LoopDriver


def write(box: node_box.Box, target: str, *, block: bool) -> None:
    """Write as a pod would."""
    if block:
        box.on_host("sh", "-c", f"printf precious | dd of={target} conv=fsync status=none")
    else:
        box.on_host("sh", "-c", f"printf precious > {target}/file; sync -f {target}/file")


def read(box: node_box.Box, target: str, *, block: bool) -> str:
    if block:
        return box.on_host("dd", f"if={target}", "bs=8", "count=1", "status=none")
    return box.on_host("cat", f"{target}/file")


def check_gone(box: node_box.Box, real: LoopDriver, volume: Volume) -> None:
    """Nothing of a volume is left on the node."""
    assert not box.mounts()
    assert not real.loops()
    assert box.journal == []
    plugins = box.path(box.kubelet / "plugins/kubernetes.io/csi")
    assert not list((plugins / real_driver.NAME).glob("*"))
    assert not list((plugins / "volumeDevices/staging").glob("*"))
    target = box.path(pathlib.Path(box.target(volume.id)))
    assert not target.exists()


KINDS = pytest.mark.parametrize(
    ("fs_type", "block"), [("ext4", False), ("xfs", False), ("", True)], ids=["ext4", "xfs", "raw"]
)


@KINDS
async def test_a_volume_lives_and_keeps_its_data(
    box: node_box.Box, real: LoopDriver, fs_type: str, block: bool
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", fs_type=fs_type or "ext4", block=block)
            target = await node.up(volume)
            write(box, target, block=block)
            usage = await node.stats(volume, target)
            assert usage["BYTES"].total > 0
            await node.down(volume)
            check_gone(box, real, volume)
            await node.up(volume)
            assert read(box, target, block=block) == "precious"
            await node.down(volume)
            check_gone(box, real, volume)


@KINDS
async def test_every_call_may_be_repeated(
    box: node_box.Box, real: LoopDriver, fs_type: str, block: bool
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", fs_type=fs_type or "ext4", block=block)
            for call in (node.stage, node.publish, node.unpublish, node.unstage):
                for _ in range(3):
                    await call(volume)
            check_gone(box, real, volume)


async def test_the_real_driver_sees_what_kubelet_would_have_sent_it(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving("--require-pod-info", "--require-secret=user=me"), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", fs_type="xfs", pod_info=True)
            handle = json.loads(volume.context["source"])["csi"]["handle"]
            own = json.loads(volume.context["source"])["csi"]["attributes"]
            volume.context |= {
                "csi.storage.k8s.io/pod.name": "p",
                "csi.storage.k8s.io/pod.namespace": "n",
                "csi.storage.k8s.io/pod.uid": "u",
                "csi.storage.k8s.io/serviceAccount.name": "s",
                "csi.storage.k8s.io/ephemeral": "false",
                "csi.storage.k8s.io/serviceAccount.tokens": "hidden",
            }
            volume.secrets = {"user": "me"}
            volume.publish_context = {"where": "here"}
            target = await node.up(volume)
            await node.down(volume)
    hashed = hashlib.sha256(handle.encode()).hexdigest()
    staging = f"{box.kubelet}/plugins/kubernetes.io/csi/{real_driver.NAME}/{hashed}/globalmount"
    stage, publish = (
        real.calls(method)[0]["request"] for method in ("NodeStageVolume", "NodePublishVolume")
    )
    for sent in (stage, publish):
        assert sent["volume_id"] == handle
        assert sent["staging_target_path"] == staging
        assert sent["publish_context"] == {"where": "here"}
        assert sent["volume_capability"]["mount"]["fs_type"] == "xfs"
        assert sent["volume_capability"]["access_mode"]["mode"] == "SINGLE_NODE_MULTI_WRITER"
        assert list(sent["secrets"]) == ["user"]
    assert stage["volume_context"] == own
    assert publish["volume_context"] == own | {
        key: value
        for key, value in volume.context.items()
        if key.startswith("csi.storage.k8s.io/") and not key.endswith("tokens")
    }
    assert publish["target_path"] == target
    for method in ("NodeUnpublishVolume", "NodeUnstageVolume"):
        assert real.calls(method)[0]["request"]["volume_id"] == handle
    assert real.calls("NodeUnstageVolume")[0]["request"]["staging_target_path"] == staging


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "INTERNAL"])
@pytest.mark.parametrize("verb", ["Stage", "Publish", "Unpublish", "Unstage"])
async def test_a_real_drivers_code_and_words_come_through(
    box: node_box.Box, real: LoopDriver, verb: str, code: str
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            real.fault(f"Node{verb}Volume", code=code, message="no, because", times=1)
            with refused(code, "no, because"):
                await node.up(volume)
                await node.down(volume)
            await node.up(volume)
            await node.down(volume)
            check_gone(box, real, volume)


async def test_a_final_refusal_to_stage_leaves_nothing_that_nobody_would_undo(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            real.fault("NodeStageVolume", code="INVALID_ARGUMENT")
            with refused("INVALID_ARGUMENT"):
                await node.stage(volume)
            check_gone(box, real, volume)
            real.fault("NodeStageVolume", code="UNAVAILABLE")
            with refused("UNAVAILABLE"):
                await node.stage(volume)
            assert box.journal == ["v.json"]
            await node.unstage(volume)
            check_gone(box, real, volume)


async def test_a_final_refusal_to_stage_again_keeps_what_unstage_needs(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            await node.up(volume)
            real.fault("NodeStageVolume", code="INTERNAL", times=1)
            with refused("INTERNAL"):
                await node.stage(volume)
            assert box.journal == ["v.json"]
            await node.down(volume)
            check_gone(box, real, volume)


async def test_a_driver_that_is_not_there_is_named_and_found_when_it_comes(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving():
        volume = await real.volume("v")
    with box.serving():
        async with calling(box) as node:
            with refused("UNAVAILABLE", f"real driver {real_driver.NAME} on node rome-1"):
                await node.stage(volume)
            assert box.journal == []
            await node.unstage(volume)
            with real.serving():
                await node.up(volume)
            with refused("UNAVAILABLE", "real driver"):
                await node.unpublish(volume)
            assert box.journal == ["v.json"]
            with real.serving():
                await node.down(volume)
                check_gone(box, real, volume)


async def test_a_driver_killed_at_work_is_found_again(box: node_box.Box, real: LoopDriver) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            for verb in ("Stage", "Publish", "Unpublish", "Unstage"):
                real.fault(f"Node{verb}Volume", exit=True, times=1)
                with refused("UNAVAILABLE", "went away"):
                    await node.up(volume)
                    await node.down(volume)
                with refused("UNAVAILABLE", "real driver"):
                    await node.up(volume)
                    await node.down(volume)
                real.stop()
                real.start()
                await node.up(volume)
                await node.down(volume)
                check_gone(box, real, volume)


async def test_the_callers_time_is_the_real_drivers_time(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            real.fault("NodeStageVolume", delay_seconds=3, times=1)
            staging = box.staging(volume.id)
            request = csi_pb2.NodeStageVolumeRequest(
                volume_id=volume.id,
                staging_target_path=staging,
                volume_capability=volume.capability,
                volume_context=volume.context,
            )
            with refused("DEADLINE_EXCEEDED"):
                await node.stub.NodeStageVolume(request, timeout=0.5)
            await eventually(node.up, volume)
            await node.down(volume)
            check_gone(box, real, volume)


async def test_a_volume_grows_while_it_is_used(box: node_box.Box, real: LoopDriver) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", fs_type="xfs")
            target = await node.up(volume)
            before = (await node.stats(volume, target))["BYTES"].total
            await real.expand(volume, 640 << 20)
            answer = await node.expand(volume, target, 640 << 20)
            assert answer.capacity_bytes >= 640 << 20
            assert (await node.stats(volume, target))["BYTES"].total > 1.5 * before
            await node.down(volume)
    sent = real.calls("NodeExpandVolume")[0]["request"]
    assert sent["staging_target_path"].startswith(f"{box.kubelet}/plugins/kubernetes.io/csi/loop.")
    assert sent["volume_path"] == target


async def test_a_driver_that_grows_nothing_on_nodes_has_nothing_to_do(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving("--expansion=none"), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            target = await node.up(volume)
            assert (await node.expand(volume, target, 640 << 20)).capacity_bytes == 640 << 20
            await node.down(volume)


async def test_the_node_plugin_may_be_killed_at_any_time(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving():
        for verb in ("Stage", "Publish", "Unpublish", "Unstage"):
            volume = await real.volume(f"v-{verb.lower()}")
            # The work is done and its answer lost: the worst moment.
            real.fault(f"Node{verb}Volume", delay_seconds=1, times=1)
            with box.serving() as program:
                async with calling(box) as node:
                    life = asyncio.create_task(live(node, volume))
                    await asyncio.to_thread(real.wait_for_fault, f"Node{verb}Volume")
                    program.kill()
                    with refused("UNAVAILABLE"):
                        await life
            with box.serving():
                async with calling(box) as node:
                    # The real driver may still be at what the killed one had asked for.
                    await eventually(node.up, volume)
                    await eventually(node.down, volume)
                    check_gone(box, real, volume)


async def test_after_a_reboot_the_journal_is_there_and_the_mounts_come_back(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            target = await node.up(volume)
            write(box, target, block=False)
    box.unmount_all()
    real.detach()
    assert box.journal == ["v.json"]
    with real.serving(), box.serving():
        async with calling(box) as node:
            await node.up(volume)
            assert read(box, target, block=False) == "precious"
            await node.down(volume)
            check_gone(box, real, volume)


async def test_a_lost_journal_does_not_keep_a_pod_for_ever(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            await node.up(volume)
            await node.publish(volume, "pod-2")
            (box.driver / "journal" / "v.json").unlink()
            await node.unpublish(volume)
            assert box.mounts(box.kubelet / "plugins")  # pod-2 goes on
            await node.unpublish(volume, "pod-2")
            assert box.mounts(box.kubelet / "plugins")  # and kubelet may publish again
            await node.unstage(volume)
            assert not box.mounts()
            assert box.journal == []


async def live(node: Kubelet, volume: Volume) -> None:
    await node.up(volume)
    await node.down(volume)
