"""What a connection to an API server costs and carries, over real TLS, and by which way."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import pathlib
import ssl
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import yaml
from aiohttp import web

from csi_liqo.kube import api
from lab import certificates

WATCHES = 20
LIST = b"x" * 3_000_000


@contextlib.asynccontextmanager
async def serving(directory: pathlib.Path) -> AsyncIterator[str]:
    """Answer /list with a long body, /echo with what was sent, and else never end; a kubeconfig."""
    authority = certificates.Authority(directory, "rome")
    pair = authority.ensure_server("server", ["127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                lengths = [line for line in lines if line.startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
                answer = LIST if b" /list " in head else body
                length = 1_000_000_000 if b" /watch" in head else len(answer)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=8 * 2**20)
    async with server:
        authority_text = base64.b64encode(authority.ca.certificate.read_bytes()).decode()
        address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        cluster = {"server": address, "certificate-authority-data": authority_text}
        yield yaml.safe_dump(
            {
                "clusters": [{"name": "x", "cluster": cluster}],
                "users": [{"name": "x", "user": {"token": "a-token"}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "current-context": "x",
            }
        )


async def test_a_watch_over_tls_has_a_read_buffer_of_one_record(tmp_path: pathlib.Path) -> None:
    async with (
        serving(tmp_path) as text,
        await api.Api.from_kubeconfig_text(text) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(WATCHES):
            await stack.enter_async_context(server.stream("/watch", {}, silence_seconds=60))
        gc.collect()
        where = tracemalloc.Filter(inclusive=True, filename_pattern="*/asyncio/sslproto.py")
        snapshot = tracemalloc.take_snapshot().filter_traces([where])
        taken = sum(trace.size for trace in snapshot.traces)
    # Both ends of each connection are in this process; with asyncio's own it is 512 KiB.
    ends = 2 * WATCHES
    assert ends * api.READ_BUFFER_BYTES <= taken < ends * 2 * api.READ_BUFFER_BYTES


async def test_a_long_list_and_a_long_write_pass_whole(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path) as text, await api.Api.from_kubeconfig_text(text) as server:
        assert await server.request("GET", "/list") == LIST
        told = {"data": "y" * 500_000}
        assert len(await server.request("POST", "/echo", body=told)) > 500_000


@contextlib.asynccontextmanager
async def recording(seen: list[tuple[str, str | None]]) -> AsyncIterator[str]:
    """Note of each request which host it was for, and as whom; the address that serves."""

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.host, request.headers.get("Authorization")))
        return web.Response(text="{}")

    served = web.Application()
    served.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(served)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def kubeconfig(address: str) -> str:
    return yaml.safe_dump(
        {
            "clusters": [{"name": "x", "cluster": {"server": address}}],
            "users": [{"name": "x", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "current-context": "x",
        }
    )


async def ask(address: str) -> None:
    async with await api.Api.from_kubeconfig_text(kubeconfig(address)) as server:
        await server.request("GET", "/version")


async def test_the_proxy_that_the_environment_names_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxied: list[tuple[str, str | None]] = []
    async with recording(proxied) as proxy:
        monkeypatch.setenv("http_proxy", proxy.removeprefix("http://"))
        monkeypatch.setenv("no_proxy", "")
        await ask("http://rome.example:6443")
        monkeypatch.setenv("http_proxy", proxy)
        await ask("http://milan.example:6443")
    assert [host.split(":")[0] for host, _ in proxied] == ["rome.example", "milan.example"]


async def test_a_server_that_the_environment_excepts_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str | None]] = []
    async with recording(asked) as address:
        monkeypatch.setenv("http_proxy", "http://nowhere.example:3128")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        await ask(address)
    assert [host for host, _ in asked] == [address.removeprefix("http://")]


async def test_a_password_file_of_the_machine_is_nothing_to_an_api_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    passwords = tmp_path / "netrc"
    passwords.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(passwords))
    asked: list[tuple[str, str | None]] = []
    async with recording(asked) as address:
        await ask(address)
    assert [authorization for _, authorization in asked] == [None]
