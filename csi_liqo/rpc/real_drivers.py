"""Finding and reaching the node plugins of the real drivers, as kubelet does.

Every socket in kubelet's plugins_registry is asked who it is; the answer names
the driver's own socket. What was found is kept until that socket vanishes or
nobody answers on it, so a driver that comes back is found without a restart here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc
import grpc.aio

from csi_liqo.model import errors
from csi_liqo.rpc.pb import (
    csi_pb2,
    csi_pb2_grpc,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)
from csi_liqo.service.node import ports

logger = logging.getLogger(__name__)

PLUGIN_TYPE: Final = "CSIPlugin"
ASK_SECONDS: Final = 1.0
"""For GetInfo, as kubelet allows (kubernetes v1.37.2, operation_generator.go:41-101)."""
CONNECT_SECONDS: Final = 5.0
NOTICE_SECONDS: Final = 0.2
INFO_SECONDS: Final = 5.0
"""For NodeGetInfo, which a driver may have to ask a cloud about."""

_OPTIONS: Final[Sequence[tuple[str, int | str]]] = (
    # A new channel must not wait out the delay that an earlier one earned by failing.
    ("grpc.use_local_subchannel_pool", 1),
    # As Go's clients; the default is the path, which some servers refuse.
    ("grpc.default_authority", "localhost"),
)


class RealDrivers:
    """The real drivers of this node by name."""

    def __init__(self, sockets: ports.PluginSockets, *, node_name: str) -> None:
        self._sockets = sockets
        self._node_name = node_name
        self._endpoints: dict[str, str] = {}
        self._asking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def connected(self, driver: str) -> AsyncIterator[grpc.aio.Channel]:
        """Hold a connection to a driver's own socket for one call, as kubelet does.

        Raises:
            errors.OutcomeUnknownError: no such driver is here, or it does not answer.
        """
        channel = await self._connect(driver)
        try:
            yield channel
        finally:
            await channel.close()

    async def most_volumes(self, driver: str) -> int:
        """Return how many volumes a driver takes on this node, 0 when it knows no limit.

        Raises:
            errors.OutcomeUnknownError: no such driver is here, or it does not answer.
            errors.RealDriverError: it refused.
        """
        async with self.connected(driver) as channel:
            try:
                info = await csi_pb2_grpc.NodeStub(channel).NodeGetInfo(
                    csi_pb2.NodeGetInfoRequest(), timeout=INFO_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                code: int = error.code().value[0]
                raise errors.RealDriverError(code, error.details() or "") from error
        return max(0, info.max_volumes_per_node)

    def forget(self, driver: str) -> None:
        """Ask anew where a driver is, the next time."""
        self._endpoints.pop(driver, None)

    def absent(self, driver: str, reason: str) -> errors.OutcomeUnknownError:
        """Return what to say of a driver that cannot be reached."""
        return errors.OutcomeUnknownError(
            f"real driver {driver} on node {self._node_name}: {reason}; see that its node plugin "
            "runs there and is registered with kubelet, this call is repeated by itself"
        )

    async def _connect(self, driver: str) -> grpc.aio.Channel:
        # A remembered socket may be of a driver that has another one since.
        for remembered in (True, False):
            endpoint = self._endpoints.get(driver, "") if remembered else ""
            try:
                path = self._sockets.resolve(endpoint or await self._find(driver))
            except errors.OutcomeUnknownError as error:
                self.forget(driver)
                if remembered and endpoint:
                    continue
                raise self.absent(driver, str(error)) from error
            channel = _open(path)
            if await _is_ready(channel):
                return channel
            await channel.close()
            self.forget(driver)
        raise self.absent(driver, f"nobody answers on its socket {path}")

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


async def is_lost(channel: grpc.aio.Channel) -> bool:
    """Tell, after UNAVAILABLE, whether the connection broke or the driver itself said so.

    A call learns of the break a moment before its channel does.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(NOTICE_SECONDS):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    return channel.get_state() is not grpc.ChannelConnectivity.READY


async def _ask(path: str) -> dict[str, str]:
    """Return the driver behind a registration socket with its own socket; empty for none."""
    try:
        async with _open(path) as channel:
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


def _open(path: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    """Connect; return whether somebody answers. One try: a socket file answers at once."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            state = channel.get_state(try_to_connect=True)
            while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY
