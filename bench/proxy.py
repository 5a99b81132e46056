"""The least that can stand between kubelet and a driver in Python: it hands bytes on.

    python -m bench.proxy SOCKET TARGET

It looks into no message and keeps one connection, so what our driver takes beyond it is
our driver's own.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc
import grpc.aio


class HandOn(grpc.GenericRpcHandler):
    """Every method of every service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return a handler that sends the bytes on and answers what comes back."""
        method = handler_call_details.method
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)

        async def answer(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return await call(request)

        return grpc.unary_unary_rpc_method_handler(answer)


async def serve(socket: str, target: str) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with grpc.aio.insecure_channel(f"unix:{target}") as channel:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([HandOn(channel)])
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        await stop.wait()
        await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
