"""One API server, spoken to through the official client, answers kept as bytes.

The client brings what must not be written twice (kubeconfig, certificates,
tokens that renew themselves, proxies); its generated models are not used.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import pathlib
from asyncio import sslproto
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiohttp
from kubernetes.aio import client as aio_client
from kubernetes.aio import config as aio_config

from csi_liqo.kube import answers, kubeconfigs
from csi_liqo.model import errors

REQUEST_TIMEOUT_SECONDS: Final = 20.0
CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_BUFFER_BYTES: Final = 16 * 1024
"""Of each TLS connection: what one record holds at most (RFC 8446, 5.1)."""

Json = Any
"""A manifest or patch, as plain Python values."""

Gate = Callable[[], AbstractAsyncContextManager[None]]
"""What a request passes: it may wait, refuse, and hear how the request ended."""


class Api:
    """A connection pool to one API server. Close it, or use it as a context manager.

    Its credential may be exchanged while it is used. ``gate`` bounds and judges what
    passes; an own cluster has none. Making one raises errors.PreconditionError when the
    addresses or the token cannot be sent anything to, or with.
    """

    def __init__(self, configuration: aio_client.Configuration) -> None:
        kubeconfigs.refuse_unusable(configuration)
        kubeconfigs.settle_surroundings(configuration)
        _bound_read_buffers()
        # A retry hides whether a write happened; callers decide. NB: 0 would mean for ever,
        # as aiohttp-retry counts attempts from one (2.9.1, client.py:86-88).
        configuration.retries = None
        # Every watch holds a connection for minutes: a limit would starve the later ones
        # for ever. What bounds the calls to a provider is its gate.
        configuration.connection_pool_maxsize = 0
        self._client = aio_client.ApiClient(configuration)
        self._client.user_agent = "csi-liqo"
        self.gate: Gate = contextlib.nullcontext
        self.on_break: Callable[[errors.ApiError], None] = lambda _: None
        """Hears of each stream that ended otherwise than agreed."""
        self._closed = False
        self._users: collections.Counter[aio_client.ApiClient] = collections.Counter()
        self._streams: set[asyncio.Timeout] = set()

    @classmethod
    async def from_kubeconfig(cls, path: pathlib.Path) -> Api:
        """Connect as a kubeconfig file's current context says.

        Raises:
            errors.PreconditionError: it cannot be used.
        """
        configuration = aio_client.Configuration()
        with kubeconfigs.complaints():
            await aio_config.load_kube_config(
                config_file=str(path), client_configuration=configuration, persist_config=False
            )
        return cls(configuration)

    @classmethod
    async def from_kubeconfig_text(cls, text: str, exec_plugins: Collection[str] = ()) -> Api:
        """Connect as a kubeconfig's text says.

        Raises:
            errors.PreconditionError: the text is no kubeconfig, or one that would read files
                here, or run a program that is not among ``exec_plugins``: a provider's Secret
                decides nothing on this machine.
        """
        with kubeconfigs.complaints():
            return cls(await kubeconfigs.load(text, exec_plugins))

    @classmethod
    async def in_cluster(cls) -> Api:
        """Connect as this pod's service account."""
        configuration = aio_client.Configuration()
        aio_config.load_incluster_config(client_configuration=configuration)
        return cls(configuration)

    @property
    def proves_itself(self) -> bool:
        """Whether the server must show a certificate that is checked."""
        configuration = self._client.configuration
        return bool(configuration.verify_ssl) and str(configuration.host).startswith("https:")

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        await self._client.close()

    async def exchange(self, fresh: Api) -> None:
        """Go on with the address and credential of another one, which is used up by that.

        Running requests end as they began; streams are cut, and begin anew.
        """
        former, self._client = self._client, fresh._client
        self.cut()
        if not self._users[former]:
            await former.close()

    def cut(self) -> None:
        """End every stream, as if its connection had broken."""
        streams, self._streams = self._streams, set()
        for scope in streams:
            scope.reschedule(asyncio.get_running_loop().time())

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Send one request and return the answer's bytes.

        Raises:
            errors.ApiError: the kind that the answer means; ApiUnavailableError when there
                was none in time, and then a write may have happened.
        """
        timeout = aiohttp.ClientTimeout(
            total=REQUEST_TIMEOUT_SECONDS, sock_connect=CONNECT_TIMEOUT_SECONDS
        )
        async with (
            self.gate(),
            self._open(method, path, query or {}, body, content_type, timeout) as response,
        ):
            try:
                return await response.read()
            except answers.CONNECTION_ERRORS as error:
                raise answers.no_answer(method, path, error) from None

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open an endless answer; reading from it fails after so much silence.

        Raises:
            errors.ApiError: the request was refused, or got no answer.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=silence_seconds
        )
        scope = asyncio.timeout(None)
        try:
            async with scope, contextlib.AsyncExitStack() as stack:
                self._streams.add(scope)
                async with self.gate():
                    opened = self._open("GET", path, query, None, "application/json", timeout)
                    response = await stack.enter_async_context(opened)
                yield response.content
        except TimeoutError as error:
            raise errors.ApiUnavailableError(f"GET {path}: the stream was cut") from error
        except errors.ApiUnavailableError as error:
            self.on_break(error)
            raise
        finally:
            self._streams.discard(scope)

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._closed:
            raise errors.ApiUnavailableError(f"{method} {path}: the connection was given up")
        client = self._client
        self._users[client] += 1
        try:
            async with self._answered(
                client, method, path, query, body, content_type, timeout
            ) as response:
                yield response
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client is not self._client:
                    await client.close()

    @staticmethod
    @contextlib.asynccontextmanager
    async def _answered(
        client: aio_client.ApiClient,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            _, url, headers, data, _ = await client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await client.rest_client.request(
                method, url, headers=headers, body=data, _request_timeout=timeout
            )
        except answers.CONNECTION_ERRORS as error:
            raise answers.no_answer(method, path, error) from None
        response: aiohttp.ClientResponse = answer.response
        try:
            if response.status == 401:
                program = client.configuration.refresh_api_key_hook
                if isinstance(program, kubeconfigs.Program):
                    program.refuse()
            if response.status >= 400:
                raise await answers.refusal(method, path, response)
            yield response
        finally:
            response.release()


def _bound_read_buffers() -> None:
    """Have each TLS connection of this process read through a buffer that fits a watch.

    asyncio gives each one 256 KiB for as long as it lives, written with zeros and thus
    resident (CPython 3.11.7, asyncio/sslproto.py:261 and 275; 3.12 and 3.13 alike), and a
    provider that grants its namespaces one by one is watched by a connection a namespace. A
    long list takes a millisecond of processor time a MB more. It is no setting but a public
    attribute of the class: a Python without it keeps its own way.
    """
    if getattr(sslproto.SSLProtocol, "max_size", 0) > READ_BUFFER_BYTES:
        sslproto.SSLProtocol.max_size = READ_BUFFER_BYTES
