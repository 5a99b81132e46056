"""Whether a provider answers, and how much is asked of it at once.

One probe at a time finds out, and never the calls: those would each wait for a
timeout, and the claims of a provider that hangs would use up what all share. After
a few failures the circuit is open: calls fail at once, until a probe succeeds. A
connection that broke leaves a doubt: behind the same address another cluster may
answer by now. So nothing more is sent before the probe has seen who answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import enum
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from csi_liqo.kube import backoff
from csi_liqo.model import errors

logger = logging.getLogger(__name__)

CALLS_AT_ONCE: Final = 16
OPENINGS_AT_ONCE: Final = 16
"""Lists, and watches being opened; hundreds of namespaces must not all begin at once."""
QUEUE_SECONDS: Final = 10.0
"""How long a call may wait for its turn."""
DOUBT_SECONDS: Final = 6.0
"""How long a call waits for a probe that is under way."""
PROBE_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 10.0
OPENS_AFTER: Final = 3
"""Probes that fail in a row before the circuit opens."""
REFUSALS_BEFORE_OPEN: Final = 5
"""Calls answered 429 or 5xx in a row before the circuit opens."""
SLOW_SECONDS: Final = 3.0
"""A call given up after so long without an answer is a reason to doubt."""
FIRST_DELAY_SECONDS: Final = 0.5
LAST_DELAY_SECONDS: Final = 15.0
CALM_SECONDS: Final = 30.0
"""Without a failure for so long, the next one is waited for shortly again."""


class State(enum.Enum):
    """What is known of a provider's API server."""

    GOOD = "it answers, and is the one it was"
    DOUBTFUL = "a probe is finding out"
    OPEN = "it does not answer, or is not to be spoken to"


class _NotSentError(errors.ApiUnavailableError):
    """A call was not sent, so it says nothing of the provider."""


class Contact:
    """The circuit before one provider, its probe, and the bounds on what passes."""

    def __init__(self, cluster_id: str, on_change: Callable[[], None]) -> None:
        self._cluster_id = cluster_id
        self._on_change = on_change
        self.state = State.DOUBTFUL
        self.trouble: errors.Error = errors.ApiUnavailableError("nothing was asked yet")
        self.last: datetime.datetime | None = None
        """When it last answered as itself."""
        self._settled = asyncio.Event()
        self._good = asyncio.Event()
        self._nudge = asyncio.Event()
        self._failed_probes = 0
        self._refused_calls = 0
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._openings = asyncio.Semaphore(OPENINGS_AT_ONCE)

    async def keep(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Ask by ``probe`` in good and bad times; ends only by being cancelled.

        ``probe`` raises what speaks against speaking to the provider.
        """
        loop = asyncio.get_running_loop()
        delays = backoff.Backoff(FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS)
        failed_at = loop.time()
        while True:
            self._nudge.clear()
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await probe()
            except TimeoutError:
                silent = f"no answer in {PROBE_SECONDS:.0f} s"
                self._probe_failed(errors.ApiUnavailableError(silent))
                failed_at, pause = loop.time(), delays.next_seconds()
            except errors.Error as error:
                self._probe_failed(error)
                failed_at, pause = loop.time(), delays.next_seconds()
            else:
                self._probe_succeeded()
                if loop.time() - failed_at > CALM_SECONDS:
                    delays.reset()
                pause = HEARTBEAT_SECONDS * random.uniform(0.7, 1.0)  # noqa: S311  # no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._nudge.wait()
            if self.state is State.OPEN and self.answers:
                # It answers the probe and refuses the calls: give it time.
                failed_at = loop.time()
                await asyncio.sleep(delays.next_seconds())

    @property
    def answers(self) -> bool:
        """Whether the last probe was answered well; calls may be refused nevertheless."""
        return self._failed_probes == 0

    async def settle(self, seconds: float) -> bool:
        """Tell whether the provider may be spoken to, giving a probe under way a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        return self.state is State.GOOD

    def doubt(self, error: errors.Error) -> None:
        """Have the probe look before anything more is sent."""
        if self.state is State.GOOD:
            self._become(State.DOUBTFUL, error)
            self._nudge.set()

    def renew(self) -> None:
        """Begin anew with another credential: at once, whatever the circuit said."""
        self._failed_probes = self._refused_calls = 0
        self._become(State.DOUBTFUL, self.trouble)
        self._nudge.set()

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Let one call pass, in its turn.

        Raises:
            errors.ApiUnavailableError: it must not be sent now; it was not.
        """
        if not await self.settle(DOUBT_SECONDS):
            raise errors.ApiUnavailableError(
                f"cluster {self._cluster_id} is not asked now: {self.trouble}"
            )
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._calls.acquire()
        except TimeoutError:
            raise errors.ApiUnavailableError(
                f"{CALLS_AT_ONCE} calls to cluster {self._cluster_id} are waiting for an answer"
            ) from None
        began = asyncio.get_running_loop().time()
        try:
            if not await self.settle(DOUBT_SECONDS):  # it may have changed while this waited
                raise _NotSentError(
                    f"cluster {self._cluster_id} is not asked any more: {self.trouble}"
                )
            yield
        except _NotSentError:
            raise
        except errors.ApiUnavailableError as error:
            self._call_failed(error)
            raise
        except errors.ApiError:
            self._refused_calls = 0  # a refusal is an answer, too
            raise
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() - began > SLOW_SECONDS:
                self.doubt(errors.ApiUnavailableError("a call was given up without an answer"))
            raise
        else:
            self._refused_calls = 0
        finally:
            self._calls.release()

    @contextlib.asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Let one list, or the opening of one watch, pass once the provider is well."""
        await self._good.wait()
        async with self._openings:
            await self._good.wait()  # it may have changed while this waited for its turn
            try:
                yield
            except errors.ApiUnavailableError as error:
                self.broke(error)
                raise

    def broke(self, error: errors.ApiError) -> None:
        """A connection broke: who answers the next one is to be seen."""
        if not error.status or error.status == 401:
            self.doubt(error)

    def _call_failed(self, error: errors.ApiUnavailableError) -> None:
        if not error.status or error.status == 401:
            self.doubt(error)
            return
        self._refused_calls += 1
        if self._refused_calls >= REFUSALS_BEFORE_OPEN and self.state is State.GOOD:
            self._become(State.OPEN, error)
            self._nudge.set()

    def _probe_failed(self, error: errors.Error) -> None:
        self._failed_probes += 1
        certain = not isinstance(error, errors.ApiUnavailableError) or error.status == 401
        opens = certain or self._failed_probes >= OPENS_AFTER
        self._become(State.OPEN if opens or self.state is State.OPEN else State.DOUBTFUL, error)

    def _probe_succeeded(self) -> None:
        self.last = datetime.datetime.now(datetime.UTC)
        self._failed_probes = 0
        if self.state is State.OPEN:
            # Half open: calls pass, and the first that is refused opens it again.
            self._refused_calls = min(self._refused_calls, REFUSALS_BEFORE_OPEN - 1)
        self._become(State.GOOD, self.trouble)

    def _become(self, state: State, trouble: errors.Error) -> None:
        changed = state is not self.state or (
            state is not State.GOOD and str(trouble) != str(self.trouble)
        )
        if state is not self.state:
            level = logging.DEBUG if state is State.DOUBTFUL else logging.INFO
            why = "" if state is State.GOOD else f": {trouble}"
            logger.log(level, "provider %s: %s%s", self._cluster_id, state.value, why)
        self.state = state
        self.trouble = trouble
        for event, wanted in (
            (self._settled, state is not State.DOUBTFUL),
            (self._good, state is State.GOOD),
        ):
            if wanted:
                event.set()
            else:
                event.clear()
        if changed:
            self._on_change()
