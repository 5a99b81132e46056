"""No text about a connection has a credential in it: neither a proxy's nor a server's."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import yaml

from csi_liqo.kube import api
from csi_liqo.model import errors

PASSWORD = "s3cret-of-the-proxy"
SERVER = "https://192.0.2.1:6443"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def kubeconfig(server: str, proxy: object = "", token: object = "a-token") -> str:
    cluster: dict[str, object] = {"server": server} | ({"proxy-url": proxy} if proxy else {})
    return yaml.safe_dump(
        {
            "clusters": [{"name": "x", "cluster": cluster}],
            "users": [{"name": "x", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "current-context": "x",
        }
    )


def answering(status: bytes) -> Serve:
    """Return a proxy that says this to whoever knocks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n" if status else b"")
        await writer.drain()
        writer.close()

    return serve


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """Listen as a proxy; its address, with a user and a password, is given."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://rome:{PASSWORD}@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (b"407 Proxy Authentication Required", "no answer: 407 Proxy Authentication Required"),
        (b"502 Bad Gateway", "no answer: 502 Bad Gateway"),
        (b"", "no answer: "),
    ],
    ids=["refused", "no-way-on", "hangs-up"],
)
async def test_what_a_proxy_answers_is_told_without_its_password(status: bytes, words: str) -> None:
    async with (
        listening(answering(status)) as proxy,
        await api.Api.from_kubeconfig_text(kubeconfig(SERVER, proxy)) as server,
    ):
        with pytest.raises(errors.ApiUnavailableError) as raised:
            await server.request("GET", "/version")
        with pytest.raises(errors.ApiUnavailableError) as streamed:
            async with server.stream("/api/v1/pods", {}, silence_seconds=5):
                pass

    for error in (raised.value, streamed.value):
        assert words in str(error)
        told = "".join(traceback.format_exception(error))
        assert PASSWORD not in told
        assert "a-token" not in told


async def test_a_proxy_that_is_not_there_is_named_by_its_host() -> None:
    text = kubeconfig(SERVER, f"http://rome:{PASSWORD}@127.0.0.1:1")

    async with await api.Api.from_kubeconfig_text(text) as server:
        with pytest.raises(errors.ApiUnavailableError, match=r"127\.0\.0\.1:1") as raised:
            await server.request("GET", "/version")

    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (kubeconfig(SERVER, f"http://u:{PASSWORD}@proxy:port"), "proxy-url is no address"),
        (kubeconfig(SERVER, f"u:{PASSWORD}@proxy:3128"), "proxy-url is no address"),
        (kubeconfig(SERVER, f"socks5://u:{PASSWORD}@proxy:1080"), "proxy-url is no address"),
        (kubeconfig(SERVER, [PASSWORD]), "proxy-url is no address"),
        (kubeconfig(f"https://u:{PASSWORD}@server:port"), "server is no address"),
        (kubeconfig(f"u:{PASSWORD}@server"), "server is no address"),
        (kubeconfig(f"https://u:{PASSWORD}@server"), "server has a user name or password"),
        (kubeconfig(SERVER, token=f"{PASSWORD}\nHost: x"), "token has characters"),
    ],
    ids=lambda value: "kubeconfig" if PASSWORD in value else value,
)
async def test_what_cannot_be_an_address_or_a_token_is_refused_unquoted(
    text: str, words: str
) -> None:
    with pytest.raises(errors.PreconditionError, match=words) as raised:
        async with await api.Api.from_kubeconfig_text(text):
            pass

    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


async def test_only_an_api_server_can_say_that_a_claim_does_not_exist() -> None:
    """What stands before one, as a load balancer, has a "404" of its own."""
    async with (
        listening(answering(b"404 Not Found")) as address,
        await api.Api.from_kubeconfig_text(
            kubeconfig(f"http://{address.rpartition('@')[2]}")
        ) as server,
    ):
        with pytest.raises(errors.ApiUnavailableError, match="404"):
            await server.request("GET", "/api/v1/namespaces/n/persistentvolumeclaims/data")
