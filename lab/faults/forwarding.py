"""The way from the proxy to the API server, with the owner's rights or the client's."""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from typing import TYPE_CHECKING, Final, Self

import aiohttp
import yarl
from aiohttp import web

from lab import api, prompt

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterable

# They belong to one connection, not to what is said over it (RFC 9110, 7.6.1).
_HOP_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
)
# Without these, what the client did not say is not said.
_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def end_to_end(headers: Iterable[tuple[str, str]], but: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the headers that pass a proxy, without those named (in lower case)."""
    dropped = _HOP_HEADERS.union(but)
    return {name: value for name, value in headers if name.lower() not in dropped}


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One request on its way upstream, over a connection of its own.

    NB: on a kept connection that turns out dead, aiohttp sends a PUT or DELETE once more.
    """

    tls: ssl.SSLContext
    method: str
    url: yarl.URL
    headers: dict[str, str]

    def session(self) -> aiohttp.ClientSession:
        """Return the request's own session; its end is the connection's, at once."""
        return aiohttp.ClientSession(
            connector=prompt.PromptConnector(ssl=self.tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
            skip_auto_headers=_ADDED_BY_AIOHTTP,
        )

    @contextlib.asynccontextmanager
    async def answered(self, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the request; the answer is to be streamed within the block."""
        async with (
            self.session() as session,
            session.request(self.method, self.url, headers=self.headers, data=body) as response,
        ):
            yield response

    async def whole(self, body: bytes) -> web.Response:
        """Send the request and read its whole answer."""
        async with self.answered(body) as response:
            content = await response.read()
            headers = end_to_end(response.headers.items(), but=("content-length",))
            return web.Response(status=response.status, body=content, headers=headers)


@dataclasses.dataclass(frozen=True, slots=True)
class Upstream:
    """The API server behind the proxy, for its owner and for anybody else.

    NB: a client certificate would win over a client's token, so those go apart.
    """

    owner: api.Connection
    anonymous: api.Connection

    @classmethod
    async def of(cls, kubeconfig: pathlib.Path) -> Self:
        """Read where the API server is and who its owner is."""
        return cls(
            await api.load_connection(kubeconfig),
            await api.load_connection(kubeconfig, anonymous=True),
        )

    def as_owner(self, request: web.Request) -> Route:
        """Go on with the rights of the upstream kubeconfig."""
        headers = end_to_end(request.headers.items(), but=("authorization",))
        return _route(self.owner, request, {**headers, **self.owner.headers})

    def as_client(self, request: web.Request) -> Route:
        """Go on with the rights of whoever asks."""
        return _route(self.anonymous, request, end_to_end(request.headers.items()))


def _route(server: api.Connection, request: web.Request, headers: dict[str, str]) -> Route:
    url = yarl.URL(server.url + request.raw_path, encoded=True)
    return Route(server.tls, request.method, url, headers)
