"""Real control planes for tests, and waiting for what their objects become."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from lab import api, binaries, control_plane, settings
from lab.mirror import wait_until as wait_until  # for the tests, beside its kin

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator, Mapping, Sequence


@contextlib.contextmanager
def running(
    name: str,
    directory: pathlib.Path,
    *,
    extra_arguments: Mapping[str, Sequence[str]] | None = None,
    without: frozenset[str] = frozenset(),
) -> Iterator[control_plane.ControlPlane]:
    """Run a bare control plane; for synchronous fixtures, whose loop is not the tests'."""
    links = settings.DEFAULT_INSTANCE / "bin"
    asyncio.run(binaries.ensure(links, ["etcd", "kubernetes"]))
    plane = control_plane.ControlPlane(
        name, directory, links, extra_arguments=extra_arguments, without=without
    )
    try:
        asyncio.run(plane.up())
        yield plane
    finally:
        asyncio.run(plane.down())


async def wait_until_there(server: api.Api, collection: str, name: str) -> api.Json:
    """Wait until an object exists and return it."""
    found = await wait_until(server, collection, name, lambda item: item is not None)
    assert found is not None
    return found


async def wait_until_gone(server: api.Api, collection: str, name: str) -> None:
    """Wait until no object of that name exists."""
    await wait_until(server, collection, name, lambda item: item is None)
