"""The circuit before a provider: when it opens, what passes then, and how it closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from csi_liqo.kube import backoff, contact
from csi_liqo.model import errors

AWAY = errors.ApiUnavailableError("connection refused")
FAILED = errors.ApiUnavailableError("a webhook failed", status=500)


class Provider:
    """What a probe finds, and how often it was looked for."""

    def __init__(self) -> None:
        self.trouble: errors.Error | None = None
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if self.trouble is not None:
            raise self.trouble


@contextlib.asynccontextmanager
async def kept(
    probe: Callable[[], Awaitable[None]],
) -> AsyncIterator[contact.Contact]:
    circuit = contact.Contact("milan", lambda: None)
    task = asyncio.create_task(circuit.keep(probe))
    try:
        yield circuit
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(circuit: contact.Contact, state: contact.State) -> None:
    async with asyncio.timeout(15):
        while circuit.state is not state:  # noqa: ASYNC110  # it tells only its owner
            await asyncio.sleep(0.01)


async def test_calls_pass_while_the_provider_answers() -> None:
    async with kept(Provider().probe) as circuit, circuit.call():
        assert circuit.state is contact.State.GOOD
        assert circuit.last is not None


async def test_a_broken_connection_lets_nothing_pass_before_the_probe_looked() -> None:
    """Another cluster may answer behind the address by now."""
    provider = Provider()
    async with kept(provider.probe) as circuit:
        await circuit.settle(1)
        provider.trouble = errors.PreconditionError("another cluster answers")
        with contextlib.suppress(errors.ApiUnavailableError):
            async with circuit.call():
                raise AWAY
        passed = False
        with pytest.raises(errors.ApiUnavailableError, match="another cluster answers"):
            async with circuit.call():
                passed = True
        assert not passed


async def test_a_call_that_waited_for_its_turn_is_not_sent_to_another_cluster() -> None:
    provider = Provider()
    sent: list[int] = []
    async with kept(provider.probe) as circuit, asyncio.TaskGroup() as tasks:
        await circuit.settle(1)
        full, answered = asyncio.Event(), asyncio.Event()

        async def call(number: int) -> None:
            async with circuit.call():
                sent.append(number)
                if len(sent) == contact.CALLS_AT_ONCE:
                    full.set()
                await answered.wait()

        for number in range(contact.CALLS_AT_ONCE):
            tasks.create_task(call(number))
        late = tasks.create_task(_outcome(call(-1)))
        await full.wait()
        await asyncio.sleep(0)  # the late one waits for its turn
        provider.trouble = errors.PreconditionError("another cluster answers")
        circuit.doubt(AWAY)
        answered.set()
        refusal = await late

    assert isinstance(refusal, errors.ApiUnavailableError)
    assert "another cluster answers" in str(refusal)
    assert -1 not in sent


async def _outcome(call: Awaitable[None]) -> Exception | None:
    try:
        await call
    except errors.Error as error:
        return error
    return None


async def test_the_circuit_opens_after_failures_and_calls_fail_at_once() -> None:
    provider = Provider()
    async with kept(provider.probe) as circuit:
        await circuit.settle(1)
        provider.trouble = AWAY
        circuit.doubt(AWAY)
        await until(circuit, contact.State.OPEN)
        assert provider.probes >= contact.OPENS_AFTER

        async with asyncio.timeout(0.1):
            with pytest.raises(errors.ApiUnavailableError, match="milan is not asked now"):
                async with circuit.call():
                    pass

        provider.trouble = None
        await until(circuit, contact.State.GOOD)


async def test_calls_that_are_refused_again_and_again_open_it_and_one_more_opens_it_again() -> None:
    provider = Provider()
    async with kept(provider.probe) as circuit:
        await circuit.settle(1)
        for _ in range(contact.REFUSALS_BEFORE_OPEN):
            with contextlib.suppress(errors.ApiUnavailableError):
                async with circuit.call():
                    raise FAILED
        assert circuit.state is contact.State.OPEN
        assert circuit.answers

        await until(circuit, contact.State.GOOD)
        with contextlib.suppress(errors.ApiUnavailableError):
            async with circuit.call():
                raise FAILED
        assert circuit.state is contact.State.OPEN


async def test_a_refusal_with_a_meaning_is_an_answer() -> None:
    async with kept(Provider().probe) as circuit:
        await circuit.settle(1)
        for _ in range(contact.REFUSALS_BEFORE_OPEN * 2):
            with contextlib.suppress(errors.ApiError):
                async with circuit.call():
                    raise errors.ApiForbiddenError("quota", status=403)
        assert circuit.state is contact.State.GOOD


async def test_so_many_calls_and_no_more_are_under_way() -> None:
    running = most = 0

    async def call(circuit: contact.Contact) -> None:
        nonlocal running, most
        async with circuit.call():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    async with kept(Provider().probe) as circuit:
        await asyncio.gather(*(call(circuit) for _ in range(contact.CALLS_AT_ONCE * 5)))

    assert most == contact.CALLS_AT_ONCE


async def test_watches_wait_for_the_provider_instead_of_asking_it() -> None:
    provider = Provider()
    provider.trouble = AWAY
    opened = False

    async def watch(circuit: contact.Contact) -> None:
        nonlocal opened
        async with circuit.opening():
            opened = True

    async with kept(provider.probe) as circuit:
        watching = asyncio.create_task(watch(circuit))
        await until(circuit, contact.State.OPEN)
        assert not opened
        provider.trouble = None
        async with asyncio.timeout(10):
            await watching
        assert opened


def test_pauses_have_full_jitter_below_a_bound_that_doubles() -> None:
    pauses = backoff.Backoff(1.0, 8.0)
    bounds = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]

    assert all(0 <= pauses.next_seconds() <= bound for bound in bounds)
    pauses.reset()
    assert pauses.next_seconds() <= 1.0
