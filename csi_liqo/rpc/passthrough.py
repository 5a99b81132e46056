"""Sending a Node call on to a real driver: the message is copied, changed as planned, sent.

Copied whole, because what this driver does not read, secrets and publish context
and whatever a later CSI adds, is the real driver's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from csi_liqo.model import errors
from csi_liqo.rpc import connections, real_drivers
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from csi_liqo.service.node import forwarding, passthrough

UNANSWERED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""After these nobody knows whether the driver is still there."""

Forwarded = (
    csi_pb2.NodeStageVolumeRequest
    | csi_pb2.NodeUnstageVolumeRequest
    | csi_pb2.NodePublishVolumeRequest
    | csi_pb2.NodeUnpublishVolumeRequest
    | csi_pb2.NodeGetVolumeStatsRequest
    | csi_pb2.NodeExpandVolumeRequest
)

Request = TypeVar("Request", bound=Forwarded)
Response = TypeVar("Response")
T = TypeVar("T")

if TYPE_CHECKING:  # generic in the stubs alone
    Method = Callable[[csi_pb2_grpc.NodeStub], grpc.aio.UnaryUnaryMultiCallable[Request, Response]]


class Deadline(Protocol):
    """A servicer's context, of which the time left to the caller matters here."""

    def time_remaining(self) -> float | None: ...


class Call(Generic[Request, Response]):
    """Implements ``service.node.passthrough.Call``: ``method`` picks the RPC of a stub."""

    def __init__(
        self,
        drivers: real_drivers.RealDrivers,
        method: Method[Request, Response],
        request: Request,
        deadline: Deadline,
    ) -> None:
        self._drivers = drivers
        self._method = method
        self._request = request
        self._deadline = deadline

    @contextlib.asynccontextmanager
    async def to(self, driver: str) -> AsyncIterator[passthrough.RealNode[Response]]:
        async with self._drivers.connected(driver) as connection:
            time_left = self._deadline.time_remaining
            asked = connection.abilities(time_left())
            abilities = await self._answered(driver, connection, asked)

            async def send(plan: forwarding.Plan) -> Response:
                message = planned(self._request, plan)
                sent = self._method(connection.node)(message, timeout=time_left())
                return await self._answered(driver, connection, sent)

            yield passthrough.RealNode(abilities, send)

    async def _answered(
        self, driver: str, connection: connections.Connection, answer: Awaitable[T]
    ) -> T:
        """Return an answer; give a failure its meaning."""
        try:
            return await answer
        except asyncio.CancelledError:  # the caller knows before us that its time is over
            await self._drivers.forget(driver)
            raise
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            if error.code() in UNANSWERED:
                await self._drivers.forget(driver)
            if error.code() is grpc.StatusCode.UNAVAILABLE and await connection.is_lost():
                raise self._drivers.absent(driver, f"it went away ({details})") from error
            code: int = error.code().value[0]
            raise errors.RealDriverError(code, details) from error


def planned(request: Request, plan: forwarding.Plan) -> Request:
    """Return a copy of a message, changed as planned."""
    message = copy.deepcopy(request)
    message.volume_id = plan.handle
    if not isinstance(message, csi_pb2.NodeUnpublishVolumeRequest) and message.staging_target_path:
        message.staging_target_path = plan.staging_path
    if plan.context is not None:
        assert isinstance(
            message, csi_pb2.NodeStageVolumeRequest | csi_pb2.NodePublishVolumeRequest
        )
        message.volume_context.clear()
        message.volume_context.update(plan.context)
    if plan.use is not None:
        assert isinstance(
            message,
            csi_pb2.NodeStageVolumeRequest
            | csi_pb2.NodePublishVolumeRequest
            | csi_pb2.NodeExpandVolumeRequest,
        )
        _use(message.volume_capability, plan.use)
    return message


def _use(capability: csi_pb2.VolumeCapability, use: forwarding.Use) -> None:
    name = use.access_mode.value
    capability.access_mode.CopyFrom(csi_pb2.VolumeCapability.AccessMode(mode=name))
    if capability.HasField("mount"):
        capability.mount.fs_type = use.fs_type
        capability.mount.mount_flags[:] = use.mount_flags
        capability.mount.volume_mount_group = use.mount_group
