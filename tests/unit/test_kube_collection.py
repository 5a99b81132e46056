"""How long a cache that has nothing yet is waited for."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from kubernetes.aio import client

from csi_liqo.kube import api, collection, resources
from csi_liqo.model import objects
from tests.unit.test_kube_reflector import serving


class Refusing:
    """Refuses each list after a while, as long as it is told to."""

    def __init__(self) -> None:
        self.refuses = True

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        if self.refuses:
            return web.Response(status=403)
        if "watch" in request.query:
            return web.Response()
        return web.json_response({"metadata": {"resourceVersion": "7"}, "items": []})


@pytest.mark.parametrize("later_granted", [False, True])
async def test_what_is_refused_while_it_is_waited_for_is_not_waited_for_as_if_it_were_slow(
    monkeypatch: pytest.MonkeyPatch, later_granted: bool
) -> None:
    monkeypatch.setattr(collection, "FIRST_LIST_SECONDS", 3600.0)
    monkeypatch.setattr(collection, "REFUSED_SECONDS", 30.0 if later_granted else 0.1)
    server = Refusing()
    async with (
        serving(server) as address,
        api.Api(client.Configuration(host=address)) as line,
    ):
        part: collection.Collection[objects.Claim] = collection.Collection(
            line, line, resources.CLAIMS, namespace="a"
        )
        if later_granted:  # it was but a moment's refusal, as while rights spread
            asyncio.get_running_loop().call_later(0.5, setattr, server, "refuses", False)
        running = asyncio.create_task(part.keep())
        try:
            async with asyncio.timeout(40):
                assert await part.ready("a") is later_granted
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert part.gaps == (() if later_granted else ("a",))
