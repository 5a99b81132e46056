"""What kubelet asks of a node plugin for one volume, and how long that takes."""

from __future__ import annotations

import pathlib
import time

from bench import manifests
from csi_liqo.model import source
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc


class Volumes:
    """One way to have volumes mounted, with the folders that kubelet makes before."""

    def __init__(
        self, kubelet: pathlib.Path, stub: csi_pb2_grpc.NodeStub, *, virtual: bool
    ) -> None:
        self._kubelet = kubelet
        self._stub = stub
        self._virtual = virtual
        self._used = 0

    async def cycle(self) -> float:
        """Stage, publish, unpublish and unstage a new volume; return the milliseconds."""
        volume = f"v{self._used}"
        self._used += 1
        driver = manifests.DRIVER if self._virtual else manifests.NOOP
        plugins = self._kubelet / "plugins/kubernetes.io/csi" / driver
        staging = plugins / volume / "globalmount"
        pod = self._kubelet / "pods" / volume / "volumes/kubernetes.io~csi" / volume
        for folder in (staging, pod):
            folder.mkdir(parents=True, exist_ok=True)
        context = _context(volume) if self._virtual else {}
        access = csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_MULTI_WRITER")
        mount = csi_pb2.VolumeCapability.MountVolume(fs_type="ext4")
        capability = csi_pb2.VolumeCapability(mount=mount, access_mode=access)
        target = str(pod / "mount")
        stage = csi_pb2.NodeStageVolumeRequest(
            volume_id=volume,
            staging_target_path=str(staging),
            volume_capability=capability,
            volume_context=context,
        )
        publish = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume,
            staging_target_path=str(staging),
            target_path=target,
            volume_capability=capability,
            volume_context=context,
        )
        start = time.perf_counter()
        await self._stub.NodeStageVolume(stage)
        await self._stub.NodePublishVolume(publish)
        await self._stub.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target)
        )
        await self._stub.NodeUnstageVolume(
            csi_pb2.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=str(staging))
        )
        return (time.perf_counter() - start) * 1000


def _context(volume: str) -> dict[str, str]:
    real = source.CsiSource(
        driver=manifests.NOOP,
        handle=f"real-{volume}",
        persistent_volume=f"pvc-{volume}",
        access_modes=("ReadWriteOnce",),
    )
    return source.to_context(source.Source(kind=source.Kind.CSI, fs_type="ext4", csi=real))


async def by_turns(ways: dict[str, Volumes], count: int) -> dict[str, list[float]]:
    """Mount as many volumes in each way; return the milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, volumes in ways.items():
            times[name].append(await volumes.cycle())
    return times
