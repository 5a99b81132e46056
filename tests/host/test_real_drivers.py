"""What kubelet does with a driver's volumes beside mounting them, over a real driver.

Covered: the limit of volumes; the repetition of NodePublish; kubelet's own binding of a
block device; access modes and SELinux labels on their way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

import grpc.aio
import pytest

from tests.host import kubelet_calls, node_box, real_driver
from tests.host.kubelet_calls import Volume, calling, refused
from tests.host.real_driver import LoopDriver

POD = "csi.storage.k8s.io/pod.name"
LABEL = 'context="system_u:object_r:container_file_t:s0:c1,c2"'


def published(real: LoopDriver) -> list[str]:
    """Return for which pods the real driver was asked to publish."""
    calls = real.calls("NodePublishVolume")
    return [call["request"]["volume_context"].get(POD, "") for call in calls]


async def test_a_node_takes_as_many_volumes_as_its_real_driver(
    box: node_box.Box, real: LoopDriver
) -> None:
    file = box.root / "drivers.json"
    told = real.state / "max-volumes"
    arguments = ("--real-drivers-file", str(file))
    with box.serving(*arguments):
        async with calling(box) as node:
            assert await node.most_volumes() == 0  # the controller has told nothing
            file.write_text(f'["absent.example.com", "{real_driver.NAME}"]')
            assert await node.most_volumes() == 0
            with real.serving("--max-volumes=9"):
                assert await node.most_volumes() == 9
                told.write_text("7")
                assert await node.most_volumes() == 7
            assert await node.most_volumes() == 7  # it is upgraded
            with real.serving():
                told.write_text("8")
                assert await node.most_volumes() == 8
                file.write_text("[]")
                assert await node.most_volumes() == 0
    file.write_text(f'["{real_driver.NAME}"]')
    with box.serving(*arguments):  # registers although the real driver is not there
        async with calling(box) as node:
            assert await node.most_volumes() == 0
            with real.serving():
                assert await node.most_volumes() == 8


async def test_a_repeated_publish_ends_here_unless_the_real_driver_wants_it(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", pod_info=True)
            volume.context[POD] = "p"
            target = await node.up(volume)
            for _ in range(3):
                assert await node.publish(volume) == target
            assert published(real) == ["p"]
            # Each pod for itself.
            await node.publish(volume, "pod-2")
            await node.publish(volume, "pod-2")
            assert published(real) == ["p", "p"]
            await node.unpublish(volume, "pod-2")
            await node.publish(volume, "pod-2")
            assert published(real) == ["p"] * 3
            await node.unpublish(volume, "pod-2")
            await node.down(volume)
    assert not box.mounts()


async def test_a_repeated_publish_reaches_a_real_driver_that_wants_it_with_the_pod(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving("--require-pod-info"), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", pod_info=True, requires_republish=True)
            for pod in ("a", "b"):
                volume.context |= {
                    f"csi.storage.k8s.io/{key}": pod
                    for key in (
                        *("pod.name", "pod.namespace", "pod.uid"),
                        *("serviceAccount.name", "ephemeral"),
                    )
                }
                await node.up(volume)
                await node.publish(volume)
            assert published(real) == ["a", "a", "b", "b"]
            real.fault("NodePublishVolume", code="PERMISSION_DENIED", message="expired", times=1)
            with refused("PERMISSION_DENIED", "expired"):
                await node.publish(volume)
            assert box.mounts(box.kubelet / "pods")  # the pod keeps what it has
            await node.down(volume)
    assert not box.mounts()


async def test_a_publish_that_does_not_show_any_more_is_done_again(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            target = await node.up(volume)
            box.on_host("umount", target)
            await node.publish(volume)
            assert len(published(real)) == 2
            # Something else shows at the target: the real driver is to say what of it.
            box.on_host("umount", target)
            box.on_host("mount", "-t", "tmpfs", "tmpfs", target)
            await node.publish(volume)
            assert len(published(real)) == 3
            box.on_host("umount", target)
            await node.down(volume)
    assert not box.mounts()


async def test_a_publish_whose_end_nobody_saw_is_sent_on_again(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving():
        volume = await real.volume("v")
        with box.serving():
            async with calling(box) as node:
                await node.stage(volume)
                real.fault("NodePublishVolume", code="UNAVAILABLE", times=1, after=True)
                with refused("UNAVAILABLE"):
                    await node.publish(volume)
                await node.publish(volume)
                assert len(published(real)) == 2
                # Not what was asked before: the real driver judges it.
                with refused("ALREADY_EXISTS"):
                    await node.publish(dataclasses.replace(volume, read_only=True))
                # kubelet restarted: it stages anew what it finds, and publishes it.
                await node.stage(volume)
                await node.publish(volume)
                assert len(published(real)) == 4
        with box.serving():  # another process of this driver
            async with calling(box) as node:
                await node.publish(volume)
                await node.publish(volume)
                assert len(published(real)) == 5
                await node.down(volume)
    assert not box.mounts()


async def test_kubelets_own_binding_of_a_device_has_its_size(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            device = box.device("disk", mebibytes=32)
            own = kubelet_calls.local("own", device, block=True)
            for volume, size in ((own, 32 << 20), (await real.volume("v", block=True), 320 << 20)):
                target = await node.up(volume)
                path = bind_as_kubelet(box, volume, target)
                usage = await node.stats(volume, path)
                assert {unit: found.total for unit, found in usage.items()} == {"BYTES": size}
                with refused("NOT_FOUND"):
                    await node.stats(volume, path + "-other")
                box.on_host("umount", path)
                await node.down(volume)
    assert not box.mounts()


def bind_as_kubelet(box: node_box.Box, volume: Volume, target: str) -> str:
    """Bind a published device where kubelet keeps it open and asks for its size.

    (kubernetes v1.37.2, csi_plugin.go:767-772, volume_path_handler.go:111-147.)
    """
    folder = box.kubelet / "plugins/kubernetes.io/csi/volumeDevices" / f"pv-of-{volume.id}" / "dev"
    path = folder / "0f6c3f9e-pod-uid"
    box.path(folder).mkdir(parents=True)
    box.path(path).touch()
    box.on_host("mount", "--bind", target, str(path))
    return str(path)


MODES = [
    # of the claim, of kubelet to a driver like this one, to an older one
    pytest.param("ReadWriteOnce", "SINGLE_NODE_MULTI_WRITER", "SINGLE_NODE_WRITER", id="once"),
    pytest.param("ReadWriteOncePod", "SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_WRITER", id="pod"),
    pytest.param("ReadOnlyMany", "MULTI_NODE_READER_ONLY", "MULTI_NODE_READER_ONLY", id="readers"),
    pytest.param(
        "ReadWriteMany", "MULTI_NODE_MULTI_WRITER", "MULTI_NODE_MULTI_WRITER", id="writers"
    ),
]


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(("claimed", "newer", "older"), MODES)
async def test_each_access_mode_reaches_the_real_driver_in_its_own_words(
    box: node_box.Box, real: LoopDriver, claimed: str, newer: str, older: str, old: bool
) -> None:
    kind = ("--topology=false", f"--single-node-multi-writer={str(not old).lower()}")
    block = claimed == "ReadWriteMany"  # the loop driver shares no filesystem
    with real.serving(*kind), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v", block=block, access_modes=(claimed,))
            volume.capability = kubelet_calls.capability(block=block, mode=newer)
            volume.read_only = claimed == "ReadOnlyMany"
            target = await node.up(volume)
            (mount,) = box.mounts(pathlib.Path(target).parent)
            assert ("ro" in mount.options) is volume.read_only
            if claimed == "ReadWriteOncePod" and not old:
                with refused("FAILED_PRECONDITION", "allows one target"):
                    await node.publish(volume, "pod-2")
            await node.down(volume)
    for method in ("NodeStageVolume", "NodePublishVolume"):
        sent = real.calls(method)[0]["request"]["volume_capability"]
        assert sent["access_mode"]["mode"] == (older if old else newer)


async def test_an_selinux_label_reaches_the_real_driver_unchanged(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            labelled = dataclasses.replace(
                volume,
                capability=kubelet_calls.capability(
                    mode="SINGLE_NODE_MULTI_WRITER", flags=("noatime", LABEL)
                ),
            )
            # A kernel without the policy refuses the label; what counts is what was sent.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await node.stage(labelled)
            await node.unstage(volume)
            await node.stage(volume)
            await node.publish(labelled)
            await node.down(volume)
    stage, publish = (
        real.calls(method)[0]["request"] for method in ("NodeStageVolume", "NodePublishVolume")
    )
    for sent in (stage, publish):
        assert sent["volume_capability"]["mount"]["mount_flags"] == ["noatime", LABEL]
