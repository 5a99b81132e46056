"""A password or token is told by nothing: no status, no log, no command, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import yaml

from tests import control_planes
from tests.cli import conftest
from tests.cluster import fabric

PASSWORD = "s3cret-of-the-proxy"
COMMANDS = (
    ("peer", "list", "-o", "wide"),
    ("peer", "list", "-o", "json"),
    ("doctor", "--consumer-id=rome"),
    ("where", "--retained", "--orphans", "--consumer-id=rome"),
    ("peer", "rotate", "milan", "--consumer-id=rome"),
)


@contextlib.asynccontextmanager
async def refusing_proxy() -> AsyncIterator[str]:
    """Run a proxy that takes nobody's word; gives its address, with a user and a password."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://rome:{PASSWORD}@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        pytest.param("", "407 Proxy Authentication Required", id="refusing"),
        pytest.param(f"http://rome:{PASSWORD}@127.0.0.1:1", "127.0.0.1:1", id="not-there"),
        pytest.param(f"http://rome:{PASSWORD}@proxy:port", "proxy-url is no address", id="no-url"),
    ],
)
async def test_the_password_of_a_proxy_is_told_by_nothing(
    driver: fabric.Fabric, desk: conftest.Desk, proxy: str, words: str
) -> None:
    good = await desk.kubeconfig_of()
    token = await desk.token_of()
    async with refusing_proxy() as refusing:
        document = yaml.safe_load(good)
        document["clusters"][0]["cluster"]["proxy-url"] = proxy or refusing
        await desk.put_kubeconfig(yaml.safe_dump(document))
        try:
            remote = await control_planes.wait_until(
                desk.consumer, fabric.REMOTE_CLUSTERS, "milan", lambda found: says(found, words)
            )
            said = [await desk(*command) for command in COMMANDS]
        finally:
            await desk.put_kubeconfig(good)
    await control_planes.wait_until(desk.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready)

    assert any(words in done.out + done.err for done in said)
    events = fabric.kubectl(desk.rome, "get", "events", "--all-namespaces", "--output=yaml")
    log = driver.controller.log.read_text()
    for text in (json.dumps(remote), events, log, *(done.out + done.err for done in said)):
        assert PASSWORD not in text
        assert token.rpartition(".")[2] not in text


def says(remote: fabric.Json | None, words: str) -> bool:
    conditions = (remote or {}).get("status", {}).get("conditions", [])
    return any(words in item["message"] for item in conditions)
