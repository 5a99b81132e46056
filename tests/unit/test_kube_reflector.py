"""What a watch tells of itself: that it fails, and that it is well again, and each once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
from aiohttp import web
from kubernetes.aio import client

from csi_liqo.kube import api, reflector, resources, store
from csi_liqo.model import errors, objects


class Server:
    """Answers lists, and watches that end at once; ``status`` is what a watch is answered."""

    def __init__(self) -> None:
        self.watches = 0
        self.status = 200
        self.asked = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": []})
        self.watches += 1
        self.asked.set()
        return web.Response(status=self.status)

    async def watched(self, times: int) -> None:
        """Wait until so many more watches were asked for, and the last was answered."""
        wanted = self.watches + times
        while self.watches < wanted:
            self.asked.clear()
            await self.asked.wait()


class Answers(Protocol):
    """What a server says."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""


@contextlib.asynccontextmanager
async def serving(server: Answers) -> AsyncIterator[str]:
    """Serve it, and give its address."""
    application = web.Application()
    application.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_a_watch_that_goes_on_is_no_news_and_one_that_is_well_again_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflector, "LASTING_SECONDS", -1.0)  # a short watch is a good one here
    server = Server()
    told: list[errors.ApiError | None] = []
    kept: store.Store[objects.Claim] = store.Store()
    async with (
        serving(server) as address,
        api.Api(client.Configuration(host=address)) as line,
    ):
        watch = reflector.Reflector(line, resources.CLAIMS, kept, on_failure=told.append)
        running = asyncio.create_task(watch.run())
        try:
            async with asyncio.timeout(15):
                await server.watched(4)
                assert told == [None]
                server.status = 500
                await server.watched(2)
                server.status = 200
                await server.watched(3)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert told[0] is None
    assert told[-1] is None
    assert [known is None for known in told].count(True) == 2
    assert all(isinstance(known, errors.ApiError) for known in told[1:-1])
