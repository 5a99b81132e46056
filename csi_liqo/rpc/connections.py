"""A connection to a real driver that outlives a call, with what that driver told on it.

To connect and to ask for capabilities is more work than the call itself, so both are
done once. What is kept can be wrong when the driver is another one by now, hence the rules,
looked at before each use:

- The connection has been there all the time. One that broke is never used again, although
  gRPC would connect anew by itself: behind it may be an upgraded driver that can do less.
- The socket at the driver's path is the one that was connected to. An upgrade may leave the
  old process serving a socket that it has no path to any more. No other socket can have its
  inode meanwhile: the kernel holds that as long as the other end of the connection is open
  (Linux, unix_stream_connect).
- Each call on it was answered. A driver that hangs is found out by whoever connects next.

What a process told holds as long as the process: CSI's sidecars, too, ask for capabilities
once a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Self

import grpc
import grpc.aio

from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from csi_liqo.service.node import forwarding, ports

CONNECT_SECONDS: Final = 5.0
NOTICE_SECONDS: Final = 0.2

_RPC = csi_pb2.NodeServiceCapability.RPC
_OPTIONS: Final[Sequence[tuple[str, int | str]]] = (
    # A new channel must not wait out the delay that an earlier one earned by failing.
    ("grpc.use_local_subchannel_pool", 1),
    # As Go's clients; the default is the path, which some servers refuse.
    ("grpc.default_authority", "localhost"),
)


class Connection:
    """One connection to a driver's node plugin; it closes itself when it is lost."""

    def __init__(self, channel: grpc.aio.Channel, socket: ports.PluginSocket) -> None:
        """``socket`` was looked at before ``channel`` was connected, never after."""
        self.node = csi_pb2_grpc.NodeStub(channel)
        self._channel = channel
        self._socket = socket
        self._abilities: forwarding.Abilities | None = None
        self._users = 0
        self._retired = False
        self._lost = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(), name="connection to a real driver")

    def leads_to(self, socket: ports.PluginSocket) -> bool:
        """Tell whether a further call may use it to reach what is at a socket now."""
        return (
            not self._retired
            and not self._lost.is_set()
            and socket == self._socket
            # The loss shows here before its watch is told.
            and self._channel.get_state() is grpc.ChannelConnectivity.READY
        )

    async def abilities(self, timeout: float | None) -> forwarding.Abilities:
        """Return what the driver advertises, asked once; ``timeout`` is in seconds.

        Raises:
            grpc.aio.AioRpcError: it does not tell.
        """
        if self._abilities is None:
            request = csi_pb2.NodeGetCapabilitiesRequest()
            answer = await self.node.NodeGetCapabilities(request, timeout=timeout)
            self._abilities = _abilities(answer)
        return self._abilities

    async def is_lost(self) -> bool:
        """Tell, after UNAVAILABLE, whether the connection broke or the driver itself said so.

        A call learns of the break a moment before its channel does.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_SECONDS):
                await self._lost.wait()
        return self._lost.is_set()

    async def __aenter__(self) -> Self:
        """Keep it open for the time of the block."""
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        await self._close_unused()

    async def retire(self) -> None:
        """Have no further call use it; the last of those under way closes it."""
        self._retired = True
        await self._close_unused()

    async def close(self) -> None:
        """End it, and with it the calls under way."""
        self._retired = True
        await self._channel.close()
        await self._watching

    async def _close_unused(self) -> None:
        if self._retired and not self._users:
            await self._channel.close()

    async def _watch(self) -> None:
        """End with the channel, which tells the watch when it is closed, too."""
        try:
            with contextlib.suppress(grpc.aio.UsageError):  # closed before this began
                await self._channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        finally:
            self._lost.set()
            await self.retire()


async def connect(socket: ports.PluginSocket) -> Connection | None:
    """Connect to a driver; None when nobody answers."""
    async with contextlib.AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(socket.path))
        if not await _is_ready(channel):
            return None
        stack.pop_all()
        return Connection(channel, socket)


def open_channel(path: str) -> grpc.aio.Channel:
    """Return a channel to a socket, not yet connected."""
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


def _abilities(answer: csi_pb2.NodeGetCapabilitiesResponse) -> forwarding.Abilities:
    kinds = {item.rpc.type for item in answer.capabilities}
    return forwarding.Abilities(
        stages=_RPC.STAGE_UNSTAGE_VOLUME in kinds,
        expands=_RPC.EXPAND_VOLUME in kinds,
        single_node_multi_writer=_RPC.SINGLE_NODE_MULTI_WRITER in kinds,
        mount_group=_RPC.VOLUME_MOUNT_GROUP in kinds,
    )
