"""Calling the driver as the sidecar does, to see the very code and text of an answer."""

from __future__ import annotations

from typing import Final

import grpc.aio

from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from tests.cluster import fabric

OK: Final = grpc.StatusCode.OK

TIMEOUT_SECONDS: Final = 12.0
"""As long as the call may take; the driver answers two seconds before."""


class Caller:
    """A CSI client on the driver's socket."""

    def __init__(self, driver: fabric.Fabric) -> None:
        self._driver = driver
        self._channel = grpc.aio.insecure_channel(f"unix:{driver.socket}")
        self._controller = csi_pb2_grpc.ControllerStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def create(
        self, request: csi_pb2.CreateVolumeRequest, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> tuple[grpc.StatusCode, str, csi_pb2.Volume]:
        """Call CreateVolume; returns the code, the text, and the volume if there is one."""
        try:
            answer = await self._controller.CreateVolume(
                request, timeout=timeout_seconds, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or "", csi_pb2.Volume()
        return OK, "", answer.volume

    async def delete(
        self, volume_id: str, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> tuple[grpc.StatusCode, str]:
        """Call DeleteVolume; returns the code and the text."""
        request = csi_pb2.DeleteVolumeRequest(volume_id=volume_id)
        try:
            await self._controller.DeleteVolume(
                request, timeout=timeout_seconds, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return OK, ""

    async def validate(
        self, volume_id: str, capability: csi_pb2.VolumeCapability | None = None
    ) -> tuple[grpc.StatusCode, str]:
        """Call ValidateVolumeCapabilities; an unconfirmed capability's reason is the text."""
        request = csi_pb2.ValidateVolumeCapabilitiesRequest(
            volume_id=volume_id, volume_capabilities=[capability or mounted()]
        )
        try:
            answer = await self._controller.ValidateVolumeCapabilities(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return OK, answer.message


def mounted() -> csi_pb2.VolumeCapability:
    """A filesystem that one node writes."""
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4"),
        access_mode=csi_pb2.VolumeCapability.AccessMode(
            mode=csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
        ),
    )


def raw() -> csi_pb2.VolumeCapability:
    """A block device that one node writes."""
    return csi_pb2.VolumeCapability(
        block=csi_pb2.VolumeCapability.BlockVolume(),
        access_mode=csi_pb2.VolumeCapability.AccessMode(
            mode=csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
        ),
    )


def wish(
    claim: fabric.Json, node: str, *, cluster: str = "", **parameters: str
) -> csi_pb2.CreateVolumeRequest:
    """The request that the sidecar sends for a claim whose consumer is on a node."""
    metadata = claim["metadata"]
    name = f"pvc-{metadata['uid']}"
    where = cluster or ("milan" if node == "milan" else "rome")
    topology = csi_pb2.Topology(segments={fabric.CLUSTER_KEY: where, fabric.NODE_KEY: node})
    return csi_pb2.CreateVolumeRequest(
        name=name,
        capacity_range=csi_pb2.CapacityRange(required_bytes=64 << 20),
        volume_capabilities=[mounted()],
        parameters={
            "csi.storage.k8s.io/pvc/name": metadata["name"],
            "csi.storage.k8s.io/pvc/namespace": metadata["namespace"],
            "csi.storage.k8s.io/pv/name": name,
            **parameters,
        },
        accessibility_requirements=csi_pb2.TopologyRequirement(
            requisite=[topology], preferred=[topology]
        ),
    )
