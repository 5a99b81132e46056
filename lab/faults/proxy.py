"""The reverse proxy itself: it presents its own certificate and streams what passes.

Every request is recorded and counted as it arrives, in one event loop, so the
n-th write is exactly that. A write that was begun upstream is never taken back
when its client goes away: what an API server received, it does.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import secrets
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import aiohttp
import yaml
from aiohttp import web

from lab import certificates
from lab.faults import forwarding, plan, requests, rules, websockets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_HOST: Final = "127.0.0.1"
_LARGEST_BODY: Final = 64 * 1024 * 1024


class _LostError(Exception):
    """The client's connection is to be cut."""


class _Watch(NamedTuple):
    record: requests.Recorded
    request: web.Request
    speaks: asyncio.Event


class FaultProxy(plan.Plan):
    """Stands in front of one API server. An asynchronous context.

    Clients use `kubeconfig`: it holds no rights but a token that the proxy knows,
    and acts with the rights of the upstream kubeconfig. With `pass_authorization`
    a client's other `Authorization` is handed on, and it acts as itself.
    """

    def __init__(
        self,
        upstream: pathlib.Path,
        directory: pathlib.Path,
        *,
        pass_authorization: bool = False,
    ) -> None:
        super().__init__()
        self.kubeconfig = directory / "kubeconfig"
        self.requests: list[requests.Recorded] = []
        self._kubeconfig_upstream = upstream
        self._authority = certificates.Authority(directory / "pki", "fault-proxy")
        self._token = f"Bearer {secrets.token_hex(16)}"
        self._pass_authorization = pass_authorization
        self._watches: list[_Watch] = []
        self._silent: rules.Match | None = None
        self._passing: set[asyncio.Task[web.Response]] = set()
        self._port = 0

    # --- faults on the whole ----------------------------------------------------------------------

    def cut_watches(self, match: rules.Match = rules.WATCHES) -> int:
        """Reset the connections of the running watches that match; returns how many."""
        cut = [watch for watch in self._watches if match.accepts(watch.record)]
        for watch in cut:
            _abort(watch.request)
        return len(cut)

    def silence_watches(self, match: rules.Match = rules.WATCHES) -> None:
        """Let matching watches, running and later ones, say nothing and stay open."""
        self._silent = match
        for watch in self._watches:
            if match.accepts(watch.record):
                watch.speaks.clear()

    def end_silence(self) -> None:
        """Let every watch speak again; it goes on where it fell silent."""
        self._silent = None
        for watch in self._watches:
            watch.speaks.set()

    def end_silence_of_new_watches(self) -> None:
        """Let later watches speak; those that are silent stay so until they end."""
        self._silent = None

    async def go_down(self) -> None:
        """Cut every connection and refuse new ones, as a dead API server's machine does."""
        if self._site in self._runner.sites:
            await self._site.stop()
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def come_up(self) -> None:
        """Accept connections again, at the same address."""
        self._site = web.TCPSite(self._runner, _HOST, self._port, ssl_context=self._tls())
        await self._site.start()

    async def lead_to(self, kubeconfig: pathlib.Path) -> None:
        """Have another API server behind the same address from now on; connections are cut."""
        await self.go_down()
        self._upstream = await forwarding.Upstream.of(kubeconfig)
        await self.come_up()

    # --- what was seen ----------------------------------------------------------------------------

    def writes(self, match: rules.Match = rules.CHANGES) -> list[requests.Recorded]:
        """Return the matching writes, in order of arrival."""
        return [item for item in self.requests if item.is_write and match.accepts(item)]

    @property
    def watches(self) -> list[requests.Recorded]:
        """The watches that are open now."""
        return [watch.record for watch in self._watches]

    # --- the proxy --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._upstream = await forwarding.Upstream.of(self._kubeconfig_upstream)
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0
        )
        await self._runner.setup()
        await self.come_up()
        self._port = self._runner.addresses[0][1]
        self._write_kubeconfig()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.go_down()
        await self._runner.cleanup()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _tls(self) -> ssl.SSLContext:
        pair = self._authority.ensure_server("server", [_HOST])
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.certificate, pair.key)
        return tls

    def _write_kubeconfig(self) -> None:
        text = certificates.forge_kubeconfig(
            cluster="faults",
            server=f"https://{_HOST}:{self._port}",
            authority=self._authority.ca.certificate.read_bytes(),
            certificate=b"",
            key=b"",
        )
        document = yaml.safe_load(text)
        document["users"][0]["user"] = {"token": self._token.removeprefix("Bearer ")}
        certificates.write_kubeconfig(self.kubeconfig, yaml.safe_dump(document))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        record = requests.Recorded.of(request.method, request.path, request.query)
        self.requests.append(record)
        taken = self.taken(record)
        try:
            answer = await self._answer(request, record, taken)
        except (_LostError, aiohttp.ClientError):
            # Whatever happens to the way upstream happens to the client's connection.
            _abort(request)
            return web.Response()
        if answer.status:
            record.status = answer.status
        return answer

    async def _answer(
        self, request: web.Request, record: requests.Recorded, taken: list[rules.Rule]
    ) -> web.StreamResponse:
        before = [rule.action for rule in taken if rule.when is rules.When.BEFORE]
        after = [rule.action for rule in taken if rule.when is rules.When.AFTER]
        body = await request.read()
        failure = await _act(before, record)
        if failure is not None:
            return failure
        authorization = request.headers.get("Authorization", "")
        if authorization == self._token:
            route = self._upstream.as_owner(request)
        elif self._pass_authorization:
            route = self._upstream.as_client(request)
        else:
            return _status(rules.Fail(401, "Unauthorized", "use the proxy's own kubeconfig"))
        record.sent = True
        if websockets.is_asked(request):
            return await websockets.bridge(request, route)
        if record.is_write:
            # A client that goes away takes nothing back.
            passing = asyncio.create_task(route.whole(body))
            self._passing.add(passing)
            passing.add_done_callback(self._passing.discard)
            answer = await asyncio.shield(passing)
            failure = await _act(after, record)
            return answer if failure is None else failure
        async with route.answered(body) as response:
            failure = await _act(after, record)
            if failure is not None:
                return failure
            record.status = response.status
            return await self._stream(request, record, response)

    async def _stream(
        self, request: web.Request, record: requests.Recorded, response: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        answer = web.StreamResponse(
            status=response.status, headers=forwarding.end_to_end(response.headers.items())
        )
        if "Content-Length" not in answer.headers:
            answer.enable_chunked_encoding()
        await answer.prepare(request)
        watch = _Watch(record, request, asyncio.Event())
        if self._silent is None or not self._silent.accepts(record):
            watch.speaks.set()
        if record.is_watch:
            self._watches.append(watch)
        try:
            async for chunk in response.content.iter_any():
                await watch.speaks.wait()
                await answer.write(chunk)
            await answer.write_eof()
        finally:
            if record.is_watch:
                self._watches.remove(watch)
        return answer


async def _act(actions: Iterable[rules.Action], record: requests.Recorded) -> web.Response | None:
    """Carry out actions in turn; returns the answer of one that gives an answer."""
    for action in actions:
        match action:
            case rules.Fail():
                return _status(action)
            case rules.Delay(seconds=seconds):
                await asyncio.sleep(seconds)
            case rules.Hang():
                await asyncio.Future()
            case rules.Cut():
                raise _LostError
            case rules.Pause():
                if not await action.hold(record):
                    raise _LostError
    return None


def _status(failure: rules.Fail) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": failure.message,
        "reason": failure.reason,
        "code": failure.status,
    }
    return web.Response(
        status=failure.status, body=json.dumps(body), content_type="application/json"
    )


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
