"""The Node service: conversion, and one call into the use case."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypedDict, TypeVar

from csi_liqo.model import errors, volumes
from csi_liqo.rpc import convert, interceptors, passthrough, real_drivers
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from csi_liqo.service.node import requests
from csi_liqo.service.node.passthrough import Call

T = TypeVar("T")

CAPABILITIES: Final = (
    csi_pb2.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME,
    csi_pb2.NodeServiceCapability.RPC.GET_VOLUME_STATS,
    csi_pb2.NodeServiceCapability.RPC.EXPAND_VOLUME,
    # kubelet then leaves fsGroup to this driver, which has each real driver's own policy
    # for it (kubernetes v1.37.2, csi_mounter.go:251-261).
    csi_pb2.NodeServiceCapability.RPC.VOLUME_MOUNT_GROUP,
    # As the controller's: kubelet names ReadWriteOncePod apart only when both have it
    # (kubernetes v1.37.2, csi_client.go:518-547).
    csi_pb2.NodeServiceCapability.RPC.SINGLE_NODE_MULTI_WRITER,
)


class Volumes(Protocol):
    """What the use cases offer; each raises ``model.errors``, each may be repeated."""

    async def stage(self, request: requests.StageRequest, call: Call[object]) -> None: ...

    async def unstage(self, volume_id: str, staging_path: str, call: Call[object]) -> None: ...

    async def publish(self, request: requests.PublishRequest, call: Call[object]) -> bool: ...

    async def unpublish(self, volume_id: str, target_path: str, call: Call[object]) -> None: ...

    async def usage(self, volume_id: str, path: str, call: Call[T]) -> requests.Usage | T: ...

    async def expand(
        self, volume_id: str, capability: volumes.VolumeCapability | None, call: Call[T]
    ) -> T | None: ...


class NodeServicer(csi_pb2_grpc.NodeServicer):
    """Serves Node; what is not advertised answers UNIMPLEMENTED.

    ``most_volumes`` returns how many volumes this node takes, 0 for no limit; kubelet asks
    again now and then. ``segment`` is this node's topology, which must never change while it
    has volumes.
    """

    def __init__(
        self,
        service: Volumes,
        drivers: real_drivers.RealDrivers,
        *,
        most_volumes: Callable[[], Awaitable[int]],
        node_name: str,
        segment: Mapping[str, str],
    ) -> None:
        self._volumes = service
        self._drivers = drivers
        self._most_volumes = most_volumes
        self._node_name = node_name
        self._segment = dict(segment)

    async def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, context: passthrough.Deadline
    ) -> csi_pb2.NodeStageVolumeResponse:
        call = passthrough.Call(self._drivers, lambda real: real.NodeStageVolume, request, context)
        wanted = requests.StageRequest(**_wanted(request, "staging_target_path"))
        await self._volumes.stage(wanted, call)
        return csi_pb2.NodeStageVolumeResponse()

    async def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: passthrough.Deadline
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        call = passthrough.Call(
            self._drivers, lambda real: real.NodeUnstageVolume, request, context
        )
        await self._volumes.unstage(
            convert.identifier(request.volume_id, "volume_id"),
            _path(request.staging_target_path, "staging_target_path"),
            call,
        )
        return csi_pb2.NodeUnstageVolumeResponse()

    async def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: passthrough.Deadline
    ) -> csi_pb2.NodePublishVolumeResponse:
        call = passthrough.Call(
            self._drivers, lambda real: real.NodePublishVolume, request, context
        )
        wanted = requests.PublishRequest(
            # A missing staging path is not malformed here: CSI wants FAILED_PRECONDITION.
            **_wanted(request, "target_path"),
            target_path=request.target_path,
            read_only=request.readonly,
        )
        if not await self._volumes.publish(wanted, call):
            interceptors.mark_repeated()
        return csi_pb2.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: passthrough.Deadline
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        call = passthrough.Call(
            self._drivers, lambda real: real.NodeUnpublishVolume, request, context
        )
        await self._volumes.unpublish(
            convert.identifier(request.volume_id, "volume_id"),
            _path(request.target_path, "target_path"),
            call,
        )
        return csi_pb2.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: passthrough.Deadline
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        call = passthrough.Call(
            self._drivers, lambda real: real.NodeGetVolumeStats, request, context
        )
        usage = await self._volumes.usage(
            convert.identifier(request.volume_id, "volume_id"),
            _path(request.volume_path, "volume_path"),
            call,
        )
        if isinstance(usage, csi_pb2.NodeGetVolumeStatsResponse):
            return usage
        return csi_pb2.NodeGetVolumeStatsResponse(usage=_usages(usage))

    async def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest, context: passthrough.Deadline
    ) -> csi_pb2.NodeExpandVolumeResponse:
        _path(request.volume_path, "volume_path")
        has_capability = request.HasField("volume_capability")
        call = passthrough.Call(self._drivers, lambda real: real.NodeExpandVolume, request, context)
        answer = await self._volumes.expand(
            convert.identifier(request.volume_id, "volume_id"),
            convert.capability(request.volume_capability) if has_capability else None,
            call,
        )
        size = request.capacity_range.required_bytes
        return answer or csi_pb2.NodeExpandVolumeResponse(capacity_bytes=size)

    async def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: object
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[
                csi_pb2.NodeServiceCapability(rpc=csi_pb2.NodeServiceCapability.RPC(type=kind))
                for kind in CAPABILITIES
            ]
        )

    async def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, context: object
    ) -> csi_pb2.NodeGetInfoResponse:
        return csi_pb2.NodeGetInfoResponse(
            node_id=self._node_name,
            max_volumes_per_node=await self._most_volumes(),
            accessible_topology=csi_pb2.Topology(segments=self._segment),
        )


class _Wanted(TypedDict):
    """What a Stage and a Publish request have in common."""

    volume_id: str
    staging_path: str
    capability: volumes.VolumeCapability
    context: dict[str, str]


def _wanted(
    request: csi_pb2.NodeStageVolumeRequest | csi_pb2.NodePublishVolumeRequest, path_field: str
) -> _Wanted:
    """Read them; ``path_field`` names the path that must be there."""
    volume_id = convert.identifier(request.volume_id, "volume_id")
    _path(getattr(request, path_field), path_field)
    return {
        "volume_id": volume_id,
        "staging_path": request.staging_target_path,
        "capability": convert.capability(request.volume_capability),
        "context": dict(request.volume_context),
    }


def _path(value: str, field: str) -> str:
    if not value:
        raise errors.InvalidRequestError(f"{field} is missing")
    return value


def _usages(usage: requests.Usage) -> list[csi_pb2.VolumeUsage]:
    if usage.block:
        unit = csi_pb2.VolumeUsage.BYTES
        return [csi_pb2.VolumeUsage(unit=unit, total=usage.total_bytes)]
    found = [
        csi_pb2.VolumeUsage(
            unit=csi_pb2.VolumeUsage.BYTES,
            total=usage.total_bytes,
            used=usage.used_bytes,
            available=usage.available_bytes,
        )
    ]
    if usage.total_inodes:
        found.append(
            csi_pb2.VolumeUsage(
                unit=csi_pb2.VolumeUsage.INODES,
                total=usage.total_inodes,
                used=usage.used_inodes,
                available=usage.available_inodes,
            )
        )
    return found
