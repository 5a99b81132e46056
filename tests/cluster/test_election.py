"""The election among replicas: one acts, and the next one when it ends, hangs or is lost.

Against a real API server that is slow, away or lost, as each candidate sees it through a
proxy of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csi_liqo.kube import api as driver_api
from csi_liqo.kube import leases
from lab import api, control_plane
from lab.faults import proxy, rules
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/csi-liqo/leases"

TAKEOVER_SECONDS = 5.0
"""What killing the leader may cost."""


@dataclasses.dataclass
class Candidate:
    """A candidate in this process, behind a proxy, and whether it acts now."""

    election: leases.Election
    way: proxy.FaultProxy
    task: asyncio.Task[None] | None = None
    acts: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    rests: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def _act(self) -> None:
        self.acts.set()
        self.rests.clear()
        try:
            await asyncio.Future()
        finally:
            self.acts.clear()
            self.rests.set()

    def start(self) -> None:
        self.task = asyncio.create_task(self.election.run(self._act))

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


Make = Callable[[str], Awaitable[Candidate]]


@pytest.fixture
async def make(prepared: Planes, tmp_path: Path, namespace: str) -> AsyncIterator[Make]:
    """Make candidates for a lease of the test's own."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(name: str) -> Candidate:
            rights = prepared[0].kubeconfig_for(fabric.CONTROLLER_USER)
            way = proxy.FaultProxy(rights, tmp_path / name)
            await stack.enter_async_context(way)
            calls = await driver_api.Api.from_kubeconfig(way.kubeconfig)
            await stack.enter_async_context(calls)
            made = Candidate(
                leases.Election(calls, namespace="csi-liqo", name=namespace, identity=name), way
            )
            stack.push_async_callback(made.stop)
            return made

        yield make


async def within(seconds: float, waiting: Awaitable[Any]) -> float:
    """Wait for something; returns how long it took."""
    begun = time.monotonic()
    async with asyncio.timeout(seconds):
        await waiting
    return time.monotonic() - begun


async def test_one_candidate_acts_and_the_next_at_once_when_it_ends(make: Make) -> None:
    first, second = await make("first"), await make("second")
    first.start()
    await within(2, first.acts.wait())
    second.start()
    with pytest.raises(TimeoutError):
        await within(4, second.acts.wait())  # longer than the lease: it is being renewed

    await first.stop()

    assert await within(2, second.acts.wait()) < 1.5
    assert not first.acts.is_set()


async def test_a_holder_that_cannot_renew_stops_before_another_one_begins(make: Make) -> None:
    first, second = await make("first"), await make("second")
    first.start()
    await within(2, first.acts.wait())
    second.start()
    ends: list[tuple[str, float]] = []

    async def note(what: str, event: asyncio.Event) -> None:
        await event.wait()
        ends.append((what, time.monotonic()))

    first.way.hang(rules.EVERYTHING, times=None)
    async with asyncio.timeout(TAKEOVER_SECONDS + 1), asyncio.TaskGroup() as group:
        group.create_task(note("first rests", first.rests))
        group.create_task(note("second acts", second.acts))

    assert [what for what, _ in ends] == ["first rests", "second acts"]


async def test_a_replica_that_lost_its_lease_acts_again_when_it_holds_it_again(make: Make) -> None:
    only = await make("only")
    only.start()
    await within(2, only.acts.wait())
    await only.way.go_down()
    await within(4, only.rests.wait())

    await only.way.come_up()

    await within(4, only.acts.wait())


async def test_a_renewal_whose_answer_was_lost_costs_nothing(make: Make) -> None:
    """The write took place, so the version that the holder knows is an old one."""
    only = await make("only")
    only.start()
    await within(2, only.acts.wait())

    only.way.cut(rules.Match(method="PUT", resource="leases"), when=rules.When.AFTER)

    with pytest.raises(TimeoutError):
        await within(4, only.rests.wait())


async def test_clocks_that_differ_decide_nothing(
    make: Make, prepared: Planes, namespace: str
) -> None:
    """A holder whose clock is an hour slow renews all the same."""
    first, second = await make("first"), await make("second")
    first.start()
    await within(2, first.acts.wait())
    second.start()
    path = f"{LEASES}/{namespace}"
    async with await api.Api.of(prepared[0].kubeconfig) as server:
        for second_of_2001 in range(4):
            # Another each time: a clock that is slow goes on, and a spec as before is no renewal.
            slow = f"2001-01-01T00:00:{second_of_2001:02}.000000Z"
            with contextlib.suppress(api.ApiError):
                await server.merge(path, {"spec": {"renewTime": slow}})
            await asyncio.sleep(0.8)  # the time itself is what is tested
    assert first.acts.is_set()
    assert not second.acts.is_set()
