"""The way from the proxy to the API server, with the owner's rights or the client's."""

from __future__ import annotations

import dataclasses
import ssl
from typing import TYPE_CHECKING, Final, Self

import aiohttp
import yarl
from aiohttp import web

from lab import api

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable

# They belong to one connection, not to what is said over it (RFC 9110, 7.6.1).
_HOP_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
)
# Without these, what the client did not say is not said.
_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_READING: Final = ("GET", "HEAD", "OPTIONS")


def end_to_end(headers: Iterable[tuple[str, str]], but: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the headers that pass a proxy, without those named (in lower case)."""
    dropped = _HOP_HEADERS.union(but)
    return {name: value for name, value in headers if name.lower() not in dropped}


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One request on its way upstream."""

    session: aiohttp.ClientSession
    method: str
    url: yarl.URL
    headers: dict[str, str]

    def request(self, body: bytes) -> aiohttp.client._RequestContextManager:
        """Send the request; the answer is to be streamed by the caller."""
        return self.session.request(self.method, self.url, headers=self.headers, data=body)

    async def whole(self, body: bytes) -> web.Response:
        """Send the request and read its whole answer."""
        async with self.request(body) as response:
            content = await response.read()
            headers = end_to_end(response.headers.items(), but=("content-length",))
            return web.Response(status=response.status, body=content, headers=headers)


class Upstream:
    """The API server behind the proxy."""

    def __init__(self, owner: api.Connection, anonymous: api.Connection) -> None:
        self._owner = owner
        # NB: when a kept connection turns out dead, aiohttp sends a PUT or DELETE once more.
        self._writer = _session(owner.tls, force_close=True)
        self._reader = _session(owner.tls, force_close=False)
        # NB: a client certificate would win over a client's token.
        self._client = _session(anonymous.tls, force_close=True)

    @classmethod
    async def of(cls, kubeconfig: pathlib.Path) -> Self:
        """Read where the API server is and who its owner is."""
        return cls(
            await api.load_connection(kubeconfig),
            await api.load_connection(kubeconfig, anonymous=True),
        )

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._writer, self._reader, self._client):
            await session.close()

    def as_owner(self, request: web.Request) -> Route:
        """Go on with the rights of the upstream kubeconfig."""
        session = self._reader if request.method in _READING else self._writer
        headers = end_to_end(request.headers.items(), but=("authorization",))
        return self._route(session, request, {**headers, **self._owner.headers})

    def as_client(self, request: web.Request) -> Route:
        """Go on with the rights of whoever asks."""
        return self._route(self._client, request, end_to_end(request.headers.items()))

    def _route(
        self, session: aiohttp.ClientSession, request: web.Request, headers: dict[str, str]
    ) -> Route:
        url = yarl.URL(self._owner.url + request.raw_path, encoded=True)
        return Route(session, request.method, url, headers)


def _session(tls: ssl.SSLContext, *, force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0, force_close=force_close),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        auto_decompress=False,
        skip_auto_headers=_ADDED_BY_AIOHTTP,
    )
