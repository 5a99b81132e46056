"""A very small HTTP server for /healthz and /metrics.

Two fixed pages for a prober and a scraper need no framework, and a framework
would be a third of the node role's memory. HTTP/1.0: one request a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from csi_liqo.model import errors

logger = logging.getLogger(__name__)

_LONGEST_HEAD: Final = 16384
_HEAD_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a path answers."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Awaitable[Page]]]


@contextlib.asynccontextmanager
async def serving(address: str, pages: Pages) -> AsyncIterator[int]:
    """Serve pages by path until the block ends; gives the port, a chosen one for port 0.

    Raises:
        errors.InvalidRequestError: the address is not ``host:port``.
        errors.PreconditionError: nobody may listen there, another process does say.
    """
    host, port = _split(address)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_encode(await _page_for(head, pages)))
            await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a prober that went away, or no HTTP at all
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, host or None, port, limit=_LONGEST_HEAD)
    except OSError as error:
        raise errors.PreconditionError(f"cannot listen on {address}: {error}") from error
    async with server:
        yield server.sockets[0].getsockname()[1]


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise errors.InvalidRequestError(f"address {address!r} is not host:port")
    return host.strip("[]"), int(port)


async def _page_for(head: bytes, pages: Pages) -> Page:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] != b"GET":
        return Page(status=HTTPStatus.METHOD_NOT_ALLOWED)
    make = pages.get(words[1].partition(b"?")[0].decode("latin-1"))
    if make is None:
        return Page(status=HTTPStatus.NOT_FOUND)
    try:
        return await make()
    except Exception:
        logger.exception("page %s failed", words[1].decode("latin-1"))
        return Page(status=HTTPStatus.INTERNAL_SERVER_ERROR)


def _encode(page: Page) -> bytes:
    head = (
        f"HTTP/1.0 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n\r\n"
    )
    return head.encode() + page.body
