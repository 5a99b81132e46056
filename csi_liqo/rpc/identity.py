"""Who this plugin is, what it can do, and whether it is ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from google.protobuf import wrappers_pb2

from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc

ServiceType = csi_pb2.PluginCapability.Service.Type


class IdentityServicer(csi_pb2_grpc.IdentityServicer):
    """Serves Identity for either role.

    ``is_ready`` is asked on every Probe: False means "still starting", an exception
    "broken". It must not depend on an API server: a restart would not bring one back.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        is_ready: Callable[[], bool],
        capabilities: Sequence[ServiceType],
    ) -> None:
        self._name = name
        self._version = version
        self._is_ready = is_ready
        self._capabilities = tuple(capabilities)

    async def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: object
    ) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=self._name, vendor_version=self._version)

    async def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: object
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        return csi_pb2.GetPluginCapabilitiesResponse(
            capabilities=[
                csi_pb2.PluginCapability(service=csi_pb2.PluginCapability.Service(type=kind))
                for kind in self._capabilities
            ]
        )

    async def Probe(self, request: csi_pb2.ProbeRequest, context: object) -> csi_pb2.ProbeResponse:
        return csi_pb2.ProbeResponse(ready=wrappers_pb2.BoolValue(value=self._is_ready()))
