"""Nodes of the lab's loop driver, each a process in a mount namespace of its own.

No Kubernetes is near: the tests call the driver as kubelet and the sidecars do.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import signal
import subprocess
from typing import Any, Final

import grpc
import grpc.aio

from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import settings
from tests.cluster import fabric

NAME: Final = "loop.csi.example.com"
MEBIBYTE: Final = 1 << 20
DRIVER: Final = settings.DEFAULT_INSTANCE / "bin" / "loopdriver"


class Node:
    """One node of the driver, with both roles. All nodes of a test share the state."""

    def __init__(self, directory: pathlib.Path, name: str, *options: str) -> None:
        self.name = name
        self.state = directory / "state"
        self.folder = directory / name
        self.folder.mkdir()
        self.socket = self.folder / "csi.sock"
        self.process = fabric.Process(
            [
                *("unshare", "--mount", "--propagation=private", str(DRIVER)),
                *(f"--endpoint=unix://{self.socket}", f"--state-dir={self.state}"),
                *(f"--node-name={name}", f"--kubelet-dir={self.folder}", "--no-registration"),
                *options,
            ],
            self.folder / "log",
        )
        self._channel = grpc.aio.insecure_channel(f"unix:{self.socket}")
        self.controller = csi_pb2_grpc.ControllerStub(self._channel)
        self.node = csi_pb2_grpc.NodeStub(self._channel)

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        await self.process.start()
        async with asyncio.timeout(20):
            while not self.socket.exists():
                assert not self.process.ended, self.process.log.read_text()
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        await self._channel.close()
        if not self.process.ended:
            await self.process.end(signal.SIGTERM)

    def run(self, *command: str | pathlib.Path) -> str:
        """Run a command where the driver's mounts are; returns what it printed."""
        enter = ("nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", *map(str, command))
        done = subprocess.run(enter, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def calls(self, method: str) -> list[dict[str, Any]]:
        """Return what the driver noted of its calls, the oldest first."""
        lines = (self.state / "calls" / f"{self.name}.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["method"] == method]

    async def create(
        self,
        name: str,
        capability: csi_pb2.VolumeCapability,
        *,
        mebibytes: int = 320,
        source: csi_pb2.VolumeContentSource | None = None,
    ) -> csi_pb2.Volume:
        segments = {f"{NAME}/node": self.name}
        answer = await self.controller.CreateVolume(
            csi_pb2.CreateVolumeRequest(
                name=name,
                capacity_range=csi_pb2.CapacityRange(required_bytes=mebibytes * MEBIBYTE),
                volume_capabilities=[capability],
                volume_content_source=source,
                accessibility_requirements=csi_pb2.TopologyRequirement(
                    requisite=[csi_pb2.Topology(segments=segments)]
                ),
            )
        )
        return answer.volume

    async def attach(
        self, volume: csi_pb2.Volume, capability: csi_pb2.VolumeCapability
    ) -> dict[str, str]:
        answer = await self.controller.ControllerPublishVolume(
            csi_pb2.ControllerPublishVolumeRequest(
                volume_id=volume.volume_id, node_id=self.name, volume_capability=capability
            )
        )
        return dict(answer.publish_context)

    def staging(self, volume: csi_pb2.Volume) -> pathlib.Path:
        return self.folder / f"{volume.volume_id}.staging"

    def target(self, volume: csi_pb2.Volume) -> pathlib.Path:
        return self.folder / f"{volume.volume_id}.target"

    async def stage(
        self,
        volume: csi_pb2.Volume,
        capability: csi_pb2.VolumeCapability,
        publish_context: dict[str, str] | None = None,
    ) -> None:
        self.staging(volume).mkdir(exist_ok=True)
        await self.node.NodeStageVolume(
            csi_pb2.NodeStageVolumeRequest(
                volume_id=volume.volume_id,
                staging_target_path=str(self.staging(volume)),
                volume_capability=capability,
                volume_context=dict(volume.volume_context),
                publish_context=publish_context or {},
            )
        )

    async def publish(
        self,
        volume: csi_pb2.Volume,
        capability: csi_pb2.VolumeCapability,
        *,
        target: pathlib.Path | None = None,
    ) -> pathlib.Path:
        target = target or self.target(volume)
        await self.node.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(
                volume_id=volume.volume_id,
                staging_target_path=str(self.staging(volume)),
                target_path=str(target),
                volume_capability=capability,
                volume_context=dict(volume.volume_context),
            )
        )
        return target

    async def release(self, volume: csi_pb2.Volume) -> None:
        """Unpublish and unstage."""
        await self.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(
                volume_id=volume.volume_id, target_path=str(self.target(volume))
            )
        )
        await self.unstage(volume)

    async def unstage(self, volume: csi_pb2.Volume) -> None:
        await self.node.NodeUnstageVolume(
            csi_pb2.NodeUnstageVolumeRequest(
                volume_id=volume.volume_id, staging_target_path=str(self.staging(volume))
            )
        )

    async def delete(self, volume: csi_pb2.Volume) -> None:
        await self.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume.volume_id))


def loops(state: pathlib.Path) -> list[str]:
    """Return the images below a state directory that have a loop device."""
    backed = (
        file.read_text() for file in pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
    )
    return [text.strip() for text in backed if str(state) in text]


def capability(kind: str, mode: str = "SINGLE_NODE_MULTI_WRITER") -> csi_pb2.VolumeCapability:
    """Return a capability; its kind is a file system, or "block"."""
    made = csi_pb2.VolumeCapability(access_mode=csi_pb2.VolumeCapability.AccessMode(mode=mode))
    if kind == "block":
        made.block.SetInParent()
    else:
        made.mount.fs_type = kind
    return made
