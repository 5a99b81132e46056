"""HTTPS connections that are all gone when their session is closed.

aiohttp does not wait for a connection that was left in the middle, such as a watch
or one whose caller was cancelled: it says goodbye over TLS for as long as the other
side likes. A test whose loop ends before that leaves open sockets behind.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    import ssl

    from aiohttp import connector, tracing


class PromptConnector(aiohttp.TCPConnector):
    """As many connections as are asked for, ended at once by `close`."""

    def __init__(self, *, ssl: ssl.SSLContext) -> None:
        super().__init__(ssl=ssl, limit=0)
        self._made: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self._making: set[asyncio.Task[connector.Connection]] = set()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[tracing.Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> connector.Connection:
        """Connect as usual; a caller that is cancelled leaves no half-made connection."""
        making = asyncio.create_task(super().connect(req, traces, timeout))
        self._making.add(making)
        making.add_done_callback(self._keep)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_drop)
            raise

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close what is idle or in use, then what still says goodbye."""
        await asyncio.gather(*self._making, return_exceptions=True)
        await super().close(abort_ssl=abort_ssl)
        for transport in list(self._made):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        # The sockets are closed in the loop's next round.
        await asyncio.sleep(0)

    def _keep(self, making: asyncio.Task[connector.Connection]) -> None:
        self._making.discard(making)
        if not making.cancelled() and making.exception() is None:
            transport = making.result().transport
            if transport is not None:
                self._made.add(transport)


def _drop(making: asyncio.Task[connector.Connection]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close()
