"""Following one object that was just made, in a cache that may not have it yet.

Absence means two things there: before the object was seen, that the watch is behind;
after it was seen, that others took it away. To mix them up is to give up on an object
that is coming, or to wait for one that never comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from csi_liqo.model import errors, objects
from csi_liqo.service import ports

T = TypeVar("T", bound=objects.Object)
R = TypeVar("R")


class Made(Generic[T]):
    """Exactly the object that was made: one of the same name and another uid is not it."""

    def __init__(self, cache: ports.Objects[T], made: T, *, kind: str) -> None:
        """``kind`` is what it is called in the text of an error."""
        self._cache = cache
        self._made = made
        self._kind = kind
        self._seen = False

    async def wait(self, settled: Callable[[T], R | None]) -> R:
        """Wait until ``settled`` of it is not None, and return that.

        What ``settled`` raises ends the wait. To wait again goes on where this ended.

        Raises:
            errors.OperationPendingError: it was there, and went away.
        """
        return await self._cache.wait(
            self._made.namespace, self._made.name, lambda found: self._look(found, settled)
        )

    def _look(self, found: T | None, settled: Callable[[T], R | None]) -> R | None:
        if found is not None and found.uid == self._made.uid:
            self._seen = True
            return settled(found)
        if self._seen:
            raise errors.OperationPendingError(
                f"{self._kind} {self._made.reference} was deleted by others"
            )
        return None
