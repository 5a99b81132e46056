"""What is said in a ConfigMap is written when it is not so, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from csi_liqo.model import errors, names, objects
from csi_liqo.reconcilers import announced, fence

TWINS = "csi-liqo-storage"
KEY = (TWINS, "said")


class ConfigMaps:
    """One ConfigMap, and a cache of it that the test brings up to date."""

    def __init__(self, said: str | None = None) -> None:
        self.synced = True
        self.written: list[dict[str, str]] = []
        self.exists = True
        data = {} if said is None else {names.FENCE_KEY: said}
        self._stored = self.cached = self._make(data, 1)
        self._shown = asyncio.Event()

    def _make(self, data: dict[str, str], version: int) -> objects.ConfigMap | None:
        metadata = objects.Metadata(
            namespace=TWINS, name="said", uid="u", resource_version=str(version)
        )
        return objects.ConfigMap(metadata=metadata, data=data)

    def get(self, namespace: str, name: str) -> objects.ConfigMap | None:
        assert (namespace, name) == KEY
        return self.cached

    async def patch(self, namespace: str, name: str, patch: dict[str, Any]) -> objects.ConfigMap:
        assert (namespace, name) == KEY
        if not self.exists:
            raise errors.ApiNotFoundError('configmaps "said" not found')
        assert self._stored is not None
        self.written.append(patch["data"])
        data = {**self._stored.data, **patch["data"]}
        if data != self._stored.data:
            version = int(self._stored.metadata.resource_version) + 1
            self._stored = self._make(data, version)
        assert self._stored is not None
        return self._stored

    def show(self) -> None:
        """Bring the cache up to date."""
        self.cached = self._stored
        self._shown.set()

    async def wait(
        self, _: str, __: str, until: Callable[[objects.ConfigMap | None], bool | None]
    ) -> bool:
        while (found := until(self.cached)) is None:
            self._shown.clear()
            await self._shown.wait()
        return found


class Claims:
    """The twins that there are."""

    def __init__(self, *namespaces: str) -> None:
        self.synced = True
        self._all = [
            objects.Claim(metadata=objects.Metadata(namespace=one, name="a")) for one in namespaces
        ]

    def all(self) -> list[objects.Claim]:
        return self._all


def fence_of(config_maps: ConfigMaps, claims: Claims) -> fence.Fence:
    said = announced.Announced(config_maps, *KEY, "nothing is known")  # type: ignore[arg-type]  # what it uses of it
    return fence.Fence(claims, said, TWINS)  # type: ignore[arg-type]  # what it uses of them


@pytest.mark.parametrize(("said", "twins"), [("yes", [TWINS]), ("no", ["another"])])
async def test_what_is_said_already_is_not_written(said: str, twins: list[str]) -> None:
    config_maps = ConfigMaps(said)
    assert await fence_of(config_maps, Claims(*twins)).reconcile(KEY) is None
    assert config_maps.written == []


@pytest.mark.parametrize("said", [None, "no", "maybe"])
async def test_what_is_not_said_is_written_and_then_waited_for(said: str | None) -> None:
    config_maps = ConfigMaps(said)
    writing = asyncio.create_task(fence_of(config_maps, Claims(TWINS)).reconcile(KEY))
    await asyncio.sleep(0.01)
    assert config_maps.written == [{names.FENCE_KEY: "yes"}]
    assert not writing.done()  # a look before the cache has it would write it again

    config_maps.show()
    await writing


async def test_what_the_cache_may_have_wrong_is_written_again() -> None:
    """The last "no" may not be in it: a new twin would go unsaid."""
    config_maps = ConfigMaps("yes")
    config_maps.synced = False
    again = await fence_of(config_maps, Claims(TWINS)).reconcile(KEY)
    assert config_maps.written == [{names.FENCE_KEY: "yes"}]
    assert again == announced.UNSEEN_SECONDS


async def test_that_there_are_no_twins_is_said_only_when_it_is_known() -> None:
    config_maps, claims = ConfigMaps("yes"), Claims()
    claims.synced = False
    assert await fence_of(config_maps, claims).reconcile(KEY) == announced.UNSEEN_SECONDS
    assert config_maps.written == []


@pytest.mark.parametrize("cached", [True, False])
async def test_without_the_config_map_that_is_an_error_with_its_remedy(*, cached: bool) -> None:
    config_maps = ConfigMaps()
    config_maps.exists = False
    if not cached:
        config_maps.cached = None
    words = 'configmaps "said" not found: apply the manifests again; without it nothing is known'
    with pytest.raises(errors.PreconditionError, match=words):
        await fence_of(config_maps, Claims(TWINS)).reconcile(KEY)
