"""Which of a provider's namespaces are watched, where it grants them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio import client

from csi_liqo.kube import api, collection, resources, spread
from csi_liqo.model import errors, objects


@pytest.fixture
async def server() -> AsyncIterator[api.Api]:
    """An API server that nobody asks anything here."""
    async with api.Api(client.Configuration(host="https://127.0.0.1:1")) as made:
        yield made


class Namespaces:
    """The namespaces that were covered, and those that hold twins."""

    def __init__(self, server: api.Api, *holding: str) -> None:
        self._server = server
        self.covered: list[str] = []
        self.asked: list[str] = []
        self.failure: errors.ApiError | None = None
        self._holding = holding
        self.claims = spread.SpreadClaims(lambda keep: None, self._make)

    def _make(self, namespace: str) -> collection.Collection[objects.Claim]:
        self.covered.append(namespace)
        part = collection.Collection(
            self._server, self._server, resources.CLAIMS, namespace=namespace
        )
        part.store.set_synced(True)
        return part

    async def holds_twins(self, namespace: str) -> bool:
        self.asked.append(namespace)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return namespace in self._holding


async def test_each_other_namespace_is_looked_into_and_watched_where_it_holds_twins(
    server: api.Api,
) -> None:
    known = Namespaces(server, "b", "i")
    known.claims.cover("a")
    assert not known.claims.synced  # what is absent may be in a namespace not looked into yet

    await known.claims.explore(iter("abcdefghi"), known.holds_twins)

    assert known.covered == ["a", "b", "i"]
    assert known.asked == list("bcdefghi")
    assert known.claims.explored


async def test_nothing_is_known_while_one_could_not_be_looked_into(server: api.Api) -> None:
    known = Namespaces(server)
    known.failure = errors.ApiUnavailableError("no answer")
    with pytest.raises(errors.ApiUnavailableError):
        await known.claims.explore(["a"], known.holds_twins)
    assert not known.claims.explored
    assert not known.claims.synced

    known.failure = None
    await known.claims.explore(["a"], known.holds_twins)
    await known.claims.wait_explored(1)
    assert known.claims.synced


async def test_what_cannot_be_seen_is_named_and_all_is_waited_for(server: api.Api) -> None:
    known = Namespaces(server, "b")
    known.claims.cover("a").store.set_synced(False)
    assert set(known.claims.gaps) == {"", "a"}

    waiting = asyncio.ensure_future(known.claims.ready(""))
    await known.claims.explore(["a", "b"], known.holds_twins)
    await asyncio.sleep(0)
    assert list(known.claims.gaps) == ["a"]
    assert not waiting.done()

    known.claims.cover("a").store.set_synced(True)
    assert await waiting
    assert not known.claims.gaps
