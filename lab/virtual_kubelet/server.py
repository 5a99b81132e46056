"""The kubelet's HTTPS endpoints, as a tunnel into the provider's API server.

Logs, exec, attach and port-forward are one request each, after which the bytes
belong to the two ends (a streamed body, SPDY, WebSocket). So only the head of a
request is read and written anew: other path and parameters, our credentials, the
same upgrade headers. Every connection carries one request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import urllib.parse
from typing import TYPE_CHECKING, Final, NamedTuple

from lab import mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lab import api

logger = logging.getLogger(__name__)

# kubelet's parameters of exec and attach, and those of the API (PodExecOptions).
_STREAMS: Final[Mapping[str, str]] = {"input": "stdin", "output": "stdout", "error": "stderr"}
_SUBRESOURCES: Final[Mapping[str, str]] = {
    "containerLogs": "log",
    "exec": "exec",
    "attach": "attach",
    "portForward": "portforward",
}
# Whose connection it is, not what is asked.
_HOP_HEADERS: Final = ("host", "authorization", "x-forwarded-for", "x-forwarded-uri")
_HEAD_LIMIT: Final = 64 * 1024
_CHUNK: Final = 64 * 1024


class Head(NamedTuple):
    """The first lines of an HTTP/1.1 request."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Read a head; raises ValueError when it is none."""
        request, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = request.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        return cls(method, target, [(name, value.strip()) for name, value in pairs])

    def render(self) -> bytes:
        """Write the head, as it goes over the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def is_upgrade(self) -> bool:
        """Tell whether the connection is to leave HTTP."""
        return any(name.lower() == "upgrade" for name, _ in self.headers)


class NotFoundHereError(Exception):
    """The request names nothing that this kubelet has."""


class KubeletServer:
    """Serves the pods of one virtual node."""

    def __init__(
        self, *, provider: api.Connection, remote_key: Callable[[mirror.Key], mirror.Key | None]
    ) -> None:
        self._provider = provider
        self._remote_key = remote_key

    async def start(self, *, address: str, port: int, tls: ssl.SSLContext) -> asyncio.Server:
        """Listen; port 0 takes a free one. The caller closes the server."""
        return await asyncio.start_server(self._serve, address, port, ssl=tls, limit=_HEAD_LIMIT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = Head.parse(await reader.readuntil(b"\r\n\r\n"))
            if head.target.partition("?")[0] == "/healthz":
                await _answer(writer, "200 OK", "ok")
            else:
                await self._tunnel(self._translate(head), reader, writer)
        except NotFoundHereError as error:
            await _answer(writer, "404 Not Found", str(error))
        except (ValueError, asyncio.LimitOverrunError):
            await _answer(writer, "400 Bad Request", "this is no request of the kubelet's API")
        except (OSError, asyncio.IncompleteReadError) as error:
            logger.debug("a connection ended: %s", error)
        finally:
            writer.close()

    def _translate(self, head: Head) -> Head:
        """Return the request to send to the provider's API server."""
        target = urllib.parse.urlsplit(head.target)
        segments = [urllib.parse.unquote(part) for part in target.path.strip("/").split("/")]
        verb, names = segments[0], segments[1:]
        expected = 2 if verb == "portForward" else 3
        if verb not in _SUBRESOURCES or len(names) != expected:
            raise NotFoundHereError(f"this kubelet serves no {target.path}")
        remote = self._remote_key(mirror.Key(names[0], names[1]))
        if remote is None:
            raise NotFoundHereError(f"pod {names[0]}/{names[1]} is not on this node")
        query = urllib.parse.parse_qsl(target.query, keep_blank_values=True)
        if verb in ("exec", "attach"):
            query = [(_STREAMS.get(name, name), value) for name, value in query]
        if len(names) == 3:
            query.append(("container", names[2]))
        path = f"/api/v1/namespaces/{remote.namespace}/pods/{remote.name}/{_SUBRESOURCES[verb]}"
        return Head(head.method, f"{path}?{urllib.parse.urlencode(query)}", self._headers(head))

    def _headers(self, head: Head) -> list[tuple[str, str]]:
        url = urllib.parse.urlsplit(self._provider.url)
        dropped = _HOP_HEADERS if head.is_upgrade else (*_HOP_HEADERS, "connection")
        headers = [("Host", url.netloc), *self._provider.headers.items()]
        headers += [item for item in head.headers if item[0].lower() not in dropped]
        if not head.is_upgrade:
            headers.append(("Connection", "close"))
        return headers

    async def _tunnel(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        url = urllib.parse.urlsplit(self._provider.url)
        there_reader, there_writer = await asyncio.open_connection(
            url.hostname, url.port or 443, ssl=self._provider.tls
        )
        try:
            there_writer.write(head.render())
            asked = asyncio.create_task(_pump(reader, there_writer))
            answered = asyncio.create_task(_pump(there_reader, writer))
            # TLS knows no half-closed connection: when one side ends, both do.
            await asyncio.wait({asked, answered}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and asked.exception() is not None:
                # The provider listens no more; what it said before is still the client's.
                await asyncio.wait({answered})
            for pump in (asked, answered):
                pump.cancel()
            await asyncio.gather(asked, answered, return_exceptions=True)
        finally:
            there_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _answer(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
