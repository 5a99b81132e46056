"""Exec, attach and port-forward through the proxy, message by message.

A WebSocket's messages pass unchanged in both directions with the subprotocol that
the API server chose. SPDY does not pass; kubectl falls back to WebSocket by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from lab.faults import forwarding

# Larger than any message that a client of the lab sends.
_LARGEST_MESSAGE = 64 * 1024 * 1024


def is_asked(request: web.Request) -> bool:
    """Tell whether a request wants to become a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


async def bridge(request: web.Request, route: forwarding.Route) -> web.StreamResponse:
    """Join the client's WebSocket with one of the API server's until either ends."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    protocols = [name.strip() for name in offered.split(",") if name.strip()]
    headers = {
        name: value
        for name, value in route.headers.items()
        if not name.lower().startswith("sec-websocket-")
    }
    async with route.session() as session:
        try:
            upstream = await session.ws_connect(
                route.url,
                protocols=protocols,
                headers=headers,
                max_msg_size=_LARGEST_MESSAGE,
                autoping=False,
            )
        except aiohttp.WSServerHandshakeError as error:
            return web.Response(status=error.status, text=error.message)
        chosen = [upstream.protocol] if upstream.protocol else []
        client = web.WebSocketResponse(
            protocols=chosen, max_msg_size=_LARGEST_MESSAGE, autoping=False
        )
        await client.prepare(request)
        await client.close(code=await _join(client, upstream))
    return client


async def _join(client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> int:
    """Hand messages on until either side ends; returns with which code upstream closed."""
    asked = asyncio.create_task(_pump(client, upstream))
    answered = asyncio.create_task(_pump(upstream, client))
    try:
        await asyncio.wait({asked, answered}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        answered.cancel()
        _, code = await asyncio.gather(asked, answered, return_exceptions=True)
    if not isinstance(code, int):
        raise aiohttp.ClientConnectionError("the WebSocket ended without a word")
    return code


async def _pump(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> int | None:
    """Hand messages on; returns the code with which the source closed, None when it did not.

    NB: the response's own `close_code` says 1006 as soon as anything else fails.
    """
    while True:
        message = await source.receive()
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            case aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)
            case aiohttp.WSMsgType.PING:
                await sink.ping(message.data)
            case aiohttp.WSMsgType.PONG:
                await sink.pong(message.data)
            case aiohttp.WSMsgType.CLOSE:
                return int(message.data)
            case _:
                return None
