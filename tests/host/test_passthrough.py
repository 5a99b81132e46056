"""Volumes of a real CSI driver: what it is sent, and that the node always converges."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import pathlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from csi_liqo.rpc.pb import csi_pb2
from tests.host import node_box, real_driver
from tests.host.kubelet_calls import Kubelet, Volume, refused
from tests.host.real_driver import LoopDriver


@contextlib.asynccontextmanager
async def calling(box: node_box.Box) -> AsyncIterator[Kubelet]:
    async with grpc.aio.insecure_channel(f"unix:{box.driver}/csi.sock") as channel:
        yield Kubelet(box, channel)


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
