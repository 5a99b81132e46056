"""What kubelet sends to a node plugin for one volume, in kubelet's order and words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from csi_liqo.model import source
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from tests.host import node_box


@contextlib.contextmanager
def refused(code: str, text: str = "") -> Iterator[None]:
    """Expect a call to end with a status code and a text in its message."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert (caught.value.code().name, caught.value.details()) == (code, caught.value.details())
    assert text in (caught.value.details() or "")


def capability(
    *, block: bool = False, mode: str = "SINGLE_NODE_WRITER", flags: tuple[str, ...] = ()
) -> csi_pb2.VolumeCapability:
    """A capability as the provisioner makes it: always with a filesystem type for mounts."""
    access = csi_pb2.VolumeCapability.AccessMode(mode=mode)
    if block:
        return csi_pb2.VolumeCapability(
            block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=access
        )
    mount = csi_pb2.VolumeCapability.MountVolume(fs_type="ext4", mount_flags=flags)
    return csi_pb2.VolumeCapability(mount=mount, access_mode=access)


@dataclass
class Volume:
    """One volume as its PersistentVolume describes it."""

    id: str
    context: dict[str, str]
    capability: csi_pb2.VolumeCapability = field(default_factory=capability)
    read_only: bool = False
    secrets: dict[str, str] = field(default_factory=dict)
    publish_context: dict[str, str] = field(default_factory=dict)


def host_path(volume_id: str, path: str, **more: object) -> Volume:
    found = source.Source(kind=source.Kind.HOST_PATH, path=path)
    return Volume(volume_id, source.to_context(found), **more)  # type: ignore[arg-type]  # by name


def local(
    volume_id: str,
    path: str,
    *,
    fs_type: str = "",
    options: tuple[str, ...] = (),
    block: bool = False,
    **more: object,
) -> Volume:
    found = source.Source(
        kind=source.Kind.LOCAL,
        path=path,
        fs_type=fs_type,
        mount_options=options,
        volume_mode=source.VolumeMode.BLOCK if block else source.VolumeMode.FILESYSTEM,
    )
    more.setdefault("capability", capability(block=block))
    return Volume(volume_id, source.to_context(found), **more)  # type: ignore[arg-type]  # by name


class Kubelet:
    """The calls, with the folders kubelet makes before each."""

    def __init__(self, box: node_box.Box, channel: grpc.aio.Channel) -> None:
        self.box = box
        self.stub = csi_pb2_grpc.NodeStub(channel)

    async def stage(self, volume: Volume) -> str:
        path = self.box.staging(volume.id)
        await self.stub.NodeStageVolume(
            csi_pb2.NodeStageVolumeRequest(
                volume_id=volume.id,
                staging_target_path=path,
                volume_capability=volume.capability,
                volume_context=volume.context,
                publish_context=volume.publish_context,
                secrets=volume.secrets,
            )
        )
        return path

    async def unstage(self, volume: Volume) -> None:
        await self.stub.NodeUnstageVolume(
            csi_pb2.NodeUnstageVolumeRequest(
                volume_id=volume.id, staging_target_path=self.box.staging(volume.id)
            )
        )

    async def publish(self, volume: Volume, pod: str = "pod-1", *, at: str = "") -> str:
        target = at or self.box.target(volume.id, pod)
        await self.stub.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(
                volume_id=volume.id,
                staging_target_path=self.box.staging(volume.id),
                target_path=target,
                volume_capability=volume.capability,
                readonly=volume.read_only,
                volume_context=volume.context,
                publish_context=volume.publish_context,
                secrets=volume.secrets,
            )
        )
        return target

    async def unpublish(self, volume: Volume, pod: str = "pod-1", *, at: str = "") -> None:
        target = at or self.box.target(volume.id, pod)
        await self.stub.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume.id, target_path=target)
        )

    async def up(self, volume: Volume, pod: str = "pod-1") -> str:
        await self.stage(volume)
        return await self.publish(volume, pod)

    async def down(self, volume: Volume, pod: str = "pod-1") -> None:
        await self.unpublish(volume, pod)
        await self.unstage(volume)

    async def stats(self, volume: Volume, path: str) -> dict[str, csi_pb2.VolumeUsage]:
        answer = await self.stub.NodeGetVolumeStats(
            csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume.id, volume_path=path)
        )
        return {csi_pb2.VolumeUsage.Unit.Name(usage.unit): usage for usage in answer.usage}

    async def most_volumes(self) -> int:
        answer = await self.stub.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
        return answer.max_volumes_per_node

    async def expand(
        self, volume: Volume, path: str, size_bytes: int
    ) -> csi_pb2.NodeExpandVolumeResponse:
        return await self.stub.NodeExpandVolume(
            csi_pb2.NodeExpandVolumeRequest(
                volume_id=volume.id,
                volume_path=path,
                staging_target_path=self.box.staging(volume.id),
                capacity_range=csi_pb2.CapacityRange(required_bytes=size_bytes),
                volume_capability=volume.capability,
            )
        )


@contextlib.asynccontextmanager
async def calling(box: node_box.Box) -> AsyncIterator[Kubelet]:
    """Connect to the node program of a node."""
    async with grpc.aio.insecure_channel(f"unix:{box.driver}/csi.sock") as channel:
        yield Kubelet(box, channel)


async def eventually(call: Callable[[Volume], Awaitable[object]], volume: Volume) -> None:
    """Repeat a call as kubelet does while the answer is to come back."""
    async with asyncio.timeout(20):
        while True:
            try:
                await call(volume)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                    raise
            await asyncio.sleep(0.1)
