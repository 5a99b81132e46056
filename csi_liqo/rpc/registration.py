"""Registering with kubelet, without a sidecar for it.

kubelet watches its plugins_registry folder, asks each socket there who it is,
reads NodeGetInfo from the endpoint it is told, and says how that ended. A
failure it repeats by itself; a restarted kubelet asks again.
"""

from __future__ import annotations

import logging
import pathlib
from typing import Final

from csi_liqo.rpc.pb import pluginregistration_pb2, pluginregistration_pb2_grpc

logger = logging.getLogger(__name__)

PLUGIN_TYPE: Final = "CSIPlugin"
VERSIONS: Final = ("1.0.0",)
"""Of the CSI protocol: kubelet accepts any 1.x."""


class RegistrationServicer(pluginregistration_pb2_grpc.RegistrationServicer):
    """Serves Registration; ``endpoint`` is the CSI socket as kubelet sees it."""

    def __init__(self, *, driver_name: str, endpoint: pathlib.Path) -> None:
        self._driver_name = driver_name
        self._endpoint = endpoint
        self.problem = "kubelet has not registered the driver yet"
        """Why kubelet does not use the driver; empty once it does."""

    async def GetInfo(
        self, request: pluginregistration_pb2.InfoRequest, context: object
    ) -> pluginregistration_pb2.PluginInfo:
        return pluginregistration_pb2.PluginInfo(
            type=PLUGIN_TYPE,
            name=self._driver_name,
            endpoint=str(self._endpoint),
            supported_versions=VERSIONS,
        )

    async def NotifyRegistrationStatus(
        self, request: pluginregistration_pb2.RegistrationStatus, context: object
    ) -> pluginregistration_pb2.RegistrationStatusResponse:
        if request.plugin_registered:
            self.problem = ""
            logger.info("kubelet registered driver %s", self._driver_name)
        else:
            self.problem = f"kubelet refused the driver: {request.error}"
            logger.error("%s", self.problem)
        # NB: an error in answer to True would make kubelet take the driver out again.
        return pluginregistration_pb2.RegistrationStatusResponse()
