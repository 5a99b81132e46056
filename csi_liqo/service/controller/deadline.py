"""How long a call may take: less than its caller waits, so that the answer still arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from csi_liqo.model import errors

ANSWER_MARGIN_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 110.0
"""Of a call whose caller set no deadline."""


class Deadline:
    """The moment by which a call must have answered."""

    def __init__(self, seconds: float | None) -> None:
        """Take the seconds left to the caller, None when it waits for ever."""
        budget = LONGEST_SECONDS if seconds is None else seconds - ANSWER_MARGIN_SECONDS
        self._end = asyncio.get_running_loop().time() + max(budget, 0.1)

    @contextlib.asynccontextmanager
    async def limit(self, explain: Callable[[], Awaitable[str]]) -> AsyncIterator[None]:
        """End what runs inside when time is up.

        Raises:
            errors.OutOfTimeError: with the text ``explain`` gives.
        """
        try:
            async with asyncio.timeout_at(self._end):
                yield
        except TimeoutError as error:
            raise errors.OutOfTimeError(await explain()) from error
