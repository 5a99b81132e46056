"""The two small pages: what they answer, and to what."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest

from csi_liqo.app import http, metrics
from csi_liqo.model import errors


async def page() -> http.Page:
    return http.Page(body=b"ok\n")


async def broken() -> http.Page:
    raise ZeroDivisionError


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", HTTPStatus.OK),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"GET /healthz?verbose HTTP/1.1\r\n\r\n", HTTPStatus.OK),
        (b"GET / HTTP/1.1\r\n\r\n", HTTPStatus.NOT_FOUND),
        (b"POST /healthz HTTP/1.1\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"nonsense\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"GET /broken HTTP/1.1\r\n\r\n", HTTPStatus.INTERNAL_SERVER_ERROR),
    ],
)
async def test_a_request_has_its_status(request_: bytes, status: HTTPStatus) -> None:
    async with http.serving("127.0.0.1:0", {"/healthz": page, "/broken": broken}) as port:
        answer = await ask(port, request_)
    assert answer.startswith(f"HTTP/1.0 {status.value} {status.phrase}\r\n".encode())
    assert answer.endswith(b"\r\n\r\nok\n") is (status is HTTPStatus.OK)
    assert b"Content-Length: " in answer


async def test_what_is_too_long_or_no_http_is_hung_up_on() -> None:
    async with http.serving("127.0.0.1:0", {"/healthz": page}) as port:
        assert await ask(port, b"GET /" + b"x" * 100_000) == b""
        assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")


@pytest.mark.parametrize("address", ["", "localhost", "9809", ":x", ":65536", "a:"])
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="host:port"):
        async with http.serving(address, {}):
            pass


async def test_a_port_somebody_has_is_refused() -> None:
    async with http.serving("127.0.0.1:0", {}) as port:
        with pytest.raises(errors.PreconditionError, match=f":{port}"):
            async with http.serving(f"127.0.0.1:{port}", {}):
                pass


async def test_calls_are_counted_by_method_and_code() -> None:
    counted = metrics.Metrics()
    for code in ("OK", "OK", "ABORTED"):
        counted.observe(method="NodeStageVolume", code=code, seconds=0.2)
    text = (await counted.page()).body.decode()
    assert 'csi_liqo_rpc_seconds_count{code="OK",method="NodeStageVolume"} 2.0' in text
    assert 'csi_liqo_rpc_seconds_count{code="ABORTED",method="NodeStageVolume"} 1.0' in text
    assert "process_resident_memory_bytes" in text
