"""Waiting until an own write is in the cache: looked at before that, it would be made again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

from csi_liqo.model import objects
from csi_liqo.service import ports

T = TypeVar("T", bound=objects.Object)

CACHE_LAG_SECONDS: Final = 2.0
"""How long a write may take to reach the cache that it is made from."""


async def wait(part: ports.Objects[T], written: objects.Object, shows: Callable[[T], bool]) -> None:
    """Return once the cached object ``shows`` the write, is not there any more, or is late."""

    def done(now: T | None) -> bool | None:
        return now is None or now.uid != written.uid or shows(now) or None

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CACHE_LAG_SECONDS):
            await part.wait(written.namespace, written.name, done)
