from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

from csi_liqo.model import errors
from csi_liqo.reconcilers import runner

KEY = ("", "milan")


@contextlib.asynccontextmanager
async def working(
    reconcile: runner.Reconcile, *, pause_seconds: float = 0.0
) -> AsyncIterator[runner.Runner]:
    made = runner.Runner("test", reconcile, workers=3, pause_seconds=pause_seconds)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_many_changes_of_one_object_are_one_piece_of_work() -> None:
    seen: list[runner.Key] = []
    done = asyncio.Event()

    async def reconcile(key: runner.Key) -> float | None:
        seen.append(key)
        if key == ("", "last"):
            done.set()
        return None

    async with working(reconcile) as made:
        for _ in range(5):
            made.add(KEY)
        made.add(("", "last"))
        await done.wait()
    assert seen == [KEY, ("", "last")]


async def test_others_get_their_turn_while_many_keys_have_nothing_to_do() -> None:
    done = asyncio.Event()
    keys = 1_000

    async def reconcile(key: runner.Key) -> float | None:
        if key == ("", str(keys - 1)):
            done.set()
        return None

    turns = 0
    async with working(reconcile) as made:
        for number in range(keys):
            made.add(("", str(number)))
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)
    assert turns > keys / 10


async def test_a_change_during_work_is_looked_at_afterwards_and_never_at_once() -> None:
    running = 0
    begun, go_on, again = asyncio.Event(), asyncio.Event(), asyncio.Event()
    overlapped = False

    async def reconcile(key: runner.Key) -> float | None:
        nonlocal running, overlapped
        running += 1
        overlapped = overlapped or running > 1
        if begun.is_set():
            again.set()
        begun.set()
        await go_on.wait()
        running -= 1
        return None

    async with working(reconcile) as made:
        made.add(KEY)
        await begun.wait()
        made.add(KEY)
        go_on.set()
        await again.wait()
    assert not overlapped


async def test_a_failure_is_tried_again() -> None:
    tries = 0
    done = asyncio.Event()

    async def reconcile(key: runner.Key) -> float | None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise errors.ApiUnavailableError("no answer")
        done.set()
        return None

    async with working(reconcile) as made:
        made.add(KEY)
        await asyncio.wait_for(done.wait(), timeout=10)
    assert tries == 2


async def test_a_key_is_looked_at_again_after_the_time_it_asks_for() -> None:
    times: list[float] = []
    done = asyncio.Event()

    async def reconcile(key: runner.Key) -> float | None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            done.set()
            return None
        return 0.05

    async with working(reconcile) as made:
        made.add(KEY)
        await asyncio.wait_for(done.wait(), timeout=10)
    assert times[1] - times[0] >= 0.04


async def test_two_looks_at_a_key_are_a_pause_apart_and_no_change_meanwhile_is_lost() -> None:
    looks: asyncio.Queue[float] = asyncio.Queue()

    async def reconcile(key: runner.Key) -> float | None:
        looks.put_nowait(asyncio.get_running_loop().time())
        return None

    times: list[float] = []
    async with working(reconcile, pause_seconds=0.05) as made:
        for _ in range(3):
            for _ in range(10):
                made.add(KEY)
            times.append(await asyncio.wait_for(looks.get(), timeout=10))
        await asyncio.sleep(0.07)
    assert looks.empty()
    assert [later - earlier >= 0.04 for earlier, later in itertools.pairwise(times)] == [True, True]


async def test_a_runner_that_was_stopped_in_the_pause_after_a_look_looks_at_once_again() -> None:
    looked = asyncio.Event()

    async def reconcile(key: runner.Key) -> float | None:
        looked.set()
        return None

    made = runner.Runner("test", reconcile, pause_seconds=3600)
    for _ in range(2):
        looked.clear()
        task = asyncio.create_task(made.run())
        await asyncio.sleep(0)
        made.add(KEY)
        await asyncio.wait_for(looked.wait(), timeout=10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_runner_that_was_stopped_runs_again_and_took_nothing_in_meanwhile() -> None:
    seen: list[runner.Key] = []
    begun, done = asyncio.Event(), asyncio.Event()

    async def reconcile(key: runner.Key) -> float | None:
        seen.append(key)
        begun.set()
        if key == ("", "last"):
            done.set()
        elif key == KEY:
            await asyncio.Future()
        return None

    made = runner.Runner("test", reconcile)
    made.add(("", "before"))
    task = asyncio.create_task(made.run())
    made.add(KEY)
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made.add(("", "between"))

    task = asyncio.create_task(made.run())
    made.add(("", "last"))
    await asyncio.wait_for(done.wait(), timeout=10)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [KEY, ("", "last")]
