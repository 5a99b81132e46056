"""Pauses between attempts, so that many who wait for one server do not come back together."""

from __future__ import annotations

import random


class Backoff:
    """Pauses with full jitter: each is anything up to a bound that doubles."""

    def __init__(self, first_seconds: float, last_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._last_seconds = last_seconds
        self._bound_seconds = first_seconds

    def next_seconds(self) -> float:
        """Return how long to pause now; the next pause may be twice as long."""
        pause = random.uniform(0, self._bound_seconds)  # noqa: S311  # jitter, no secret
        self._bound_seconds = min(self._bound_seconds * 2, self._last_seconds)
        return pause

    def reset(self) -> None:
        """Begin anew, after a success that lasted."""
        self._bound_seconds = self._first_seconds
