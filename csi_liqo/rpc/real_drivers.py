"""Finding and reaching the node plugins of the real drivers, as kubelet does.

Every socket in kubelet's plugins_registry is asked who it is; the answer names
the driver's own socket. What was found is kept until that socket vanishes or
nobody answers on it, so a driver that comes back is found without a restart here.
The connection is kept as well, by the rules of ``rpc.connections``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

import grpc.aio

from csi_liqo.model import errors
from csi_liqo.rpc import connections
from csi_liqo.rpc.pb import csi_pb2, pluginregistration_pb2, pluginregistration_pb2_grpc
from csi_liqo.service.node import ports

logger = logging.getLogger(__name__)

PLUGIN_TYPE: Final = "CSIPlugin"
ASK_SECONDS: Final = 1.0
"""For GetInfo, as kubelet allows (kubernetes v1.37.2, operation_generator.go:41-101)."""
INFO_SECONDS: Final = 5.0
"""For NodeGetInfo, which a driver may have to ask a cloud about."""


class RealDrivers:
    """The real drivers of this node by name."""

    def __init__(self, sockets: ports.PluginSockets, *, node_name: str) -> None:
        self._sockets = sockets
        self._node_name = node_name
        self._endpoints: dict[str, str] = {}
        self._kept: dict[str, connections.Connection] = {}
        self._asking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def connected(self, driver: str) -> AsyncIterator[connections.Connection]:
        """Hold a connection to a driver's own socket for one call.

        Raises:
            errors.OutcomeUnknownError: no such driver is here, or it does not answer.
        """
        async with await self._connect(driver) as connection:
            yield connection

    async def most_volumes(self, driver: str) -> int:
        """Return how many volumes a driver takes on this node, 0 when it knows no limit.

        Raises:
            errors.OutcomeUnknownError: no such driver is here, or it does not answer.
            errors.RealDriverError: it refused.
        """
        async with self.connected(driver) as connection:
            try:
                info = await connection.node.NodeGetInfo(
                    csi_pb2.NodeGetInfoRequest(), timeout=INFO_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                await self.forget(driver)
                code: int = error.code().value[0]
                raise errors.RealDriverError(code, error.details() or "") from error
        return max(0, info.max_volumes_per_node)

    async def forget(self, driver: str) -> None:
        """Ask anew where a driver is and what it can do, the next time."""
        self._endpoints.pop(driver, None)
        kept = self._kept.pop(driver, None)
        if kept is not None:
            await kept.retire()

    async def aclose(self) -> None:
        """Close every connection; nobody may call any more."""
        while self._kept:
            _, kept = self._kept.popitem()
            await kept.close()

    def absent(self, driver: str, reason: str) -> errors.OutcomeUnknownError:
        """Return what to say of a driver that cannot be reached."""
        return errors.OutcomeUnknownError(
            f"real driver {driver} on node {self._node_name}: {reason}; see that its node plugin "
            "runs there and is registered with kubelet, this call is repeated by itself"
        )

    async def _connect(self, driver: str) -> connections.Connection:
        # A remembered socket may be of a driver that has another one since.
        for remembered in (True, False):
            endpoint = self._endpoints.get(driver, "") if remembered else ""
            try:
                socket = self._sockets.resolve(endpoint or await self._find(driver))
            except errors.OutcomeUnknownError as error:
                await self.forget(driver)
                if remembered and endpoint:
                    continue
                raise self.absent(driver, str(error)) from error
            kept = self._kept.get(driver)
            if kept is not None and kept.leads_to(socket):
                return kept
            made = await connections.connect(socket)
            if made is not None:
                await self._keep(driver, made)
                return made
            await self.forget(driver)
        raise self.absent(driver, f"nobody answers on its socket {socket.path}")

    async def _keep(self, driver: str, made: connections.Connection) -> None:
        """Keep the latest; two calls at once may have made one each."""
        before = self._kept.get(driver)
        self._kept[driver] = made
        if before is not None:
            await before.retire()

    async def _find(self, driver: str) -> str:
        """Return a driver's socket as it told it; ask everyone when it is not known."""
        async with self._asking:
            if driver not in self._endpoints:
                paths = await asyncio.to_thread(self._sockets.registered)
                for told in await asyncio.gather(*map(_ask, paths)):
                    self._endpoints.update(told)
        if driver not in self._endpoints:
            raise errors.OutcomeUnknownError("it is not registered")
        return self._endpoints[driver]


async def _ask(path: str) -> dict[str, str]:
    """Return the driver behind a registration socket with its own socket; empty for none."""
    try:
        async with connections.open_channel(path) as channel:
            info = await pluginregistration_pb2_grpc.RegistrationStub(channel).GetInfo(
                pluginregistration_pb2.InfoRequest(), timeout=ASK_SECONDS
            )
    except grpc.aio.AioRpcError as error:
        logger.warning("%s does not say who it is: %s", path, error.details())
        return {}
    if info.type != PLUGIN_TYPE:
        return {}
    # An empty endpoint is this very socket (operation_generator.go:111-113).
    return {info.name: info.endpoint or path}
