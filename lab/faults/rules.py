"""Which requests a fault befalls, and which fault."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lab.faults import requests


class When(enum.Enum):
    """On which side of the API server's work a fault lies."""

    BEFORE = "before the request is sent on"
    AFTER = "after the API server answered, before the client is told"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Requests that agree in everything given; None agrees with all.

    `path` is a regular expression searched in the path without its query;
    `other_than` leaves out resources.
    """

    method: str | None = None
    path: str | None = None
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None
    is_watch: bool | None = None
    is_write: bool | None = None
    other_than: frozenset[str] = frozenset()

    def accepts(self, request: requests.Recorded) -> bool:
        """Tell whether a request is one of these."""
        target = request.target
        pairs = (
            (self.method, request.method),
            (self.resource, target.resource),
            (self.namespace, target.namespace),
            (self.name, target.name),
            (self.subresource, target.subresource),
            (self.is_watch, request.is_watch),
            (self.is_write, request.is_write),
        )
        return (
            all(wanted is None or wanted == found for wanted, found in pairs)
            and target.resource not in self.other_than
            and (self.path is None or re.search(self.path, request.path) is not None)
        )


EVERYTHING: Final = Match()
WRITES: Final = Match(is_write=True)
# Leases are renewed by the clock and events sent in the background: no crash test can count them.
CHANGES: Final = Match(is_write=True, other_than=frozenset({"leases", "events"}))
WATCHES: Final = Match(is_watch=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Fail:
    """Answer with a Status object of this code."""

    status: int = 500
    reason: str = "InternalError"
    message: str = "a fault was placed here"


@dataclasses.dataclass(frozen=True, slots=True)
class Hang:
    """Answer nothing until the client gives up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """Reset the client's connection."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delay:
    """Go on after a while."""

    seconds: float


class Pause:
    """Holds one request until a test says how it goes on."""

    def __init__(self) -> None:
        self._reached: asyncio.Future[requests.Recorded] = asyncio.Future()
        self._goes_on: asyncio.Future[bool] = asyncio.Future()

    async def wait_until_reached(self, timeout_seconds: float = 30) -> requests.Recorded:
        """Return the request that is held now; raises TimeoutError when none comes."""
        async with asyncio.timeout(timeout_seconds):
            return await asyncio.shield(self._reached)

    def release(self) -> None:
        """Let the request, or its answer, pass."""
        if not self._goes_on.done():
            self._goes_on.set_result(True)

    def drop(self) -> None:
        """Lose the request, or its answer, and cut the connection.

        NB: the way on after killing the client: a released request may still be
        sent, because the death of its connection is noticed later.
        """
        if not self._goes_on.done():
            self._goes_on.set_result(False)

    async def hold(self, request: requests.Recorded) -> bool:
        """Tell that the request is here; returns whether it passes. For the proxy."""
        if not self._reached.done():
            self._reached.set_result(request)
        return await asyncio.shield(self._goes_on)


Action = Fail | Hang | Cut | Delay | Pause


class Rule:
    """An action for the `nth` matching request and the `times - 1` after it.

    Only requests that arrive after the rule was placed count; `times` None means for ever.
    """

    def __init__(
        self, match: Match, action: Action, *, when: When, nth: int = 1, times: int | None = 1
    ) -> None:
        self.match = match
        self.action = action
        self.when = when
        self.seen = 0
        self._nth = nth
        self._times = times

    def takes(self, request: requests.Recorded) -> bool:
        """Count a request, and tell whether the action befalls it."""
        if not self.match.accepts(request):
            return False
        self.seen += 1
        return self.seen >= self._nth and (
            self._times is None or self.seen < self._nth + self._times
        )
