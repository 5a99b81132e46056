"""The Controller service: conversion, and one call into the use case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from google.protobuf import wrappers_pb2

from csi_liqo.model import topology, volumes
from csi_liqo.rpc import convert
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc

RpcType = csi_pb2.ControllerServiceCapability.RPC.Type

CAPABILITIES: Final[tuple[RpcType, ...]] = (
    csi_pb2.ControllerServiceCapability.RPC.CREATE_DELETE_VOLUME,
    # With it ReadWriteOnce and ReadWriteOncePod arrive as different modes; without it both
    # are SINGLE_NODE_WRITER and a twin could not be asked for in the mode the user chose.
    csi_pb2.ControllerServiceCapability.RPC.SINGLE_NODE_MULTI_WRITER,
)


class Timed(Protocol):
    """The part of a call's context that a use case may depend on."""

    def time_remaining(self) -> float | None:
        """Return the seconds left to the caller's deadline; None when there is none."""


class Volumes(Protocol):
    """What the use cases offer; each raises ``model.errors``, each may be repeated."""

    async def create(
        self, request: volumes.CreateRequest, deadline_seconds: float | None
    ) -> volumes.Volume:
        """Return the volume of that name, made if need be."""

    async def delete(self, volume_id: str, deadline_seconds: float | None) -> None:
        """Return once the volume is gone; an unknown one is."""

    async def validate(
        self,
        volume_id: str,
        capabilities: tuple[volumes.VolumeCapability, ...],
        context: Mapping[str, str],
        parameters: Mapping[str, str],
    ) -> str:
        """Return why the volume cannot be used so; empty when it can."""


class Attaching(Protocol):
    """What the use cases of attaching offer; each raises ``model.errors``."""

    async def attach(
        self,
        volume_id: str,
        node_name: str,
        context: dict[str, str],
        deadline_seconds: float | None,
    ) -> dict[str, str]:
        """Return what the real driver's attachment tells its node plugin."""

    async def detach(self, volume_id: str, node_name: str, deadline_seconds: float | None) -> None:
        """Return once the volume is attached to that node, or to none at all, no more."""


class Capacity(Protocol):
    """What is known of the room for new volumes."""

    def available(
        self, given: Mapping[str, str], segment: topology.Segment | None
    ) -> tuple[int, int]:
        """Return the bytes available to a class of these parameters, and the largest volume."""


class ControllerServicer(csi_pb2_grpc.ControllerServicer):
    """Serves Controller; what is not advertised answers UNIMPLEMENTED.

    ``attaching`` None: an installation whose real volumes are never attached. ``capacity``
    None: nobody can tell how much room there is.
    """

    def __init__(
        self,
        service: Volumes,
        attaching: Attaching | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self._volumes = service
        self._attaching = attaching
        self._capacity = capacity
        rpc = csi_pb2.ControllerServiceCapability.RPC
        publishing = (rpc.PUBLISH_UNPUBLISH_VOLUME,) if attaching is not None else ()
        counting = (rpc.GET_CAPACITY,) if capacity is not None else ()
        self._capabilities = CAPABILITIES + publishing + counting

    async def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: Timed
    ) -> csi_pb2.CreateVolumeResponse:
        wanted = convert.create_request(request)
        volume = await self._volumes.create(wanted, context.time_remaining())
        return csi_pb2.CreateVolumeResponse(volume=convert.volume(volume))

    async def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: Timed
    ) -> csi_pb2.DeleteVolumeResponse:
        volume_id = convert.identifier(request.volume_id, "volume_id")
        await self._volumes.delete(volume_id, context.time_remaining())
        return csi_pb2.DeleteVolumeResponse()

    async def ControllerPublishVolume(
        self, request: csi_pb2.ControllerPublishVolumeRequest, context: Timed
    ) -> csi_pb2.ControllerPublishVolumeResponse:
        if self._attaching is None:
            raise NotImplementedError("this installation does not attach")
        volume_id = convert.identifier(request.volume_id, "volume_id")
        node_id = convert.identifier(request.node_id, "node_id")
        convert.capability(request.volume_capability)
        told = convert.entries(request.volume_context, "volume_context")
        published = await self._attaching.attach(volume_id, node_id, told, context.time_remaining())
        return csi_pb2.ControllerPublishVolumeResponse(publish_context=published)

    async def ControllerUnpublishVolume(
        self, request: csi_pb2.ControllerUnpublishVolumeRequest, context: Timed
    ) -> csi_pb2.ControllerUnpublishVolumeResponse:
        if self._attaching is None:
            raise NotImplementedError("this installation does not attach")
        volume_id = convert.identifier(request.volume_id, "volume_id")
        await self._attaching.detach(volume_id, request.node_id, context.time_remaining())
        return csi_pb2.ControllerUnpublishVolumeResponse()

    async def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: object
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        reason = await self._volumes.validate(
            convert.identifier(request.volume_id, "volume_id"),
            convert.capabilities(request.volume_capabilities),
            convert.entries(request.volume_context, "volume_context"),
            convert.entries(request.parameters, "parameters"),
        )
        if reason:
            return csi_pb2.ValidateVolumeCapabilitiesResponse(message=reason)
        return csi_pb2.ValidateVolumeCapabilitiesResponse(
            confirmed=csi_pb2.ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
                mutable_parameters=request.mutable_parameters,
            )
        )

    async def GetCapacity(
        self, request: csi_pb2.GetCapacityRequest, context: object
    ) -> csi_pb2.GetCapacityResponse:
        if self._capacity is None:
            raise NotImplementedError("nobody can tell how much room there is")
        for capability in request.volume_capabilities:
            convert.capability(capability)
        given = convert.entries(request.parameters, "parameters")
        asked = request.HasField("accessible_topology")
        segment = dict(request.accessible_topology.segments) if asked else None
        available, largest = self._capacity.available(given, segment)
        return csi_pb2.GetCapacityResponse(
            available_capacity=available,
            maximum_volume_size=wrappers_pb2.Int64Value(value=largest),
        )

    async def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: object
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        return csi_pb2.ControllerGetCapabilitiesResponse(
            capabilities=[
                csi_pb2.ControllerServiceCapability(
                    rpc=csi_pb2.ControllerServiceCapability.RPC(type=kind)
                )
                for kind in self._capabilities
            ]
        )
