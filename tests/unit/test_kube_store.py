from __future__ import annotations

import asyncio

import pytest

from csi_liqo.kube import indexes, store
from csi_liqo.model import names, objects
from csi_liqo.service.controller import clusters


def twin(version: int, *, name: str = "data", volume: str = "v1") -> objects.Claim:
    labels = {names.VOLUME_LABEL: volume} if volume else {}
    return objects.Claim(
        metadata=objects.Metadata(
            namespace="ns", name=name, uid=name, resource_version=str(version), labels=labels
        )
    )


def name_of(claim: objects.Claim | None) -> str | None:
    return None if claim is None else claim.name


@pytest.fixture
def claims() -> store.Store[objects.Claim]:
    return store.Store(indexes.CLAIMS)


def test_an_index_follows_the_object(claims: store.Store[objects.Claim]) -> None:
    claims.put(twin(1))
    assert claims.select(clusters.BY_VOLUME, "v1") == (twin(1),)
    claims.put(twin(2, volume="v2"))
    assert claims.select(clusters.BY_VOLUME, "v1") == ()
    assert claims.select(clusters.BY_VOLUME, "v2") == (twin(2, volume="v2"),)
    claims.remove("ns", "data")
    assert claims.select(clusters.BY_VOLUME, "v2") == ()


def test_a_new_list_forgets_what_is_not_in_it(claims: store.Store[objects.Claim]) -> None:
    heard: list[tuple[str | None, str | None]] = []
    claims.listen(lambda before, after: heard.append((name_of(before), name_of(after))))
    claims.replace([twin(1), twin(1, name="other")])
    claims.replace([twin(1), twin(2, name="third")])
    assert {claim.name for claim in claims.all()} == {"data", "third"}
    assert heard == [(None, "data"), (None, "other"), ("other", None), (None, "third")]


def test_a_late_listener_hears_of_what_there_is(claims: store.Store[objects.Claim]) -> None:
    claims.put(twin(1))
    heard: list[str | None] = []
    claims.listen(lambda _, after: heard.append(name_of(after)))
    assert heard == ["data"]


async def test_a_wait_ends_with_the_change_it_waits_for(
    claims: store.Store[objects.Claim],
) -> None:
    def second(found: objects.Claim | None) -> objects.Claim | None:
        return found if found and found.metadata.resource_version == "2" else None

    waiting = asyncio.create_task(claims.wait("ns", "data", second))
    await asyncio.sleep(0)
    claims.put(twin(1))
    claims.put(twin(2))
    assert await asyncio.wait_for(waiting, timeout=5) == twin(2)


async def test_a_cancelled_wait_leaves_nothing_behind(claims: store.Store[objects.Claim]) -> None:
    waiting = asyncio.create_task(claims.wait("ns", "data", lambda found: found))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    claims.put(twin(1))
    assert await claims.wait("ns", "data", lambda found: found) == twin(1)


async def test_what_a_wait_raises_ends_it(claims: store.Store[objects.Claim]) -> None:
    def refuse(found: objects.Claim | None) -> objects.Claim | None:
        if found is not None:
            raise LookupError(found.name)
        return None

    waiting = asyncio.create_task(claims.wait("ns", "data", refuse))
    await asyncio.sleep(0)
    claims.put(twin(1))
    with pytest.raises(LookupError):
        await asyncio.wait_for(waiting, timeout=5)


async def test_who_waits_on_a_store_that_nobody_keeps_up_is_told(
    claims: store.Store[objects.Claim],
) -> None:
    waiting = asyncio.create_task(claims.wait("ns", "data", lambda found: found))
    await asyncio.sleep(0)
    claims.end(LookupError("given up"))
    with pytest.raises(LookupError):
        await asyncio.wait_for(waiting, timeout=5)
    with pytest.raises(LookupError):
        await asyncio.wait_for(claims.wait("ns", "data", lambda found: found), timeout=5)
    assert not claims.synced
