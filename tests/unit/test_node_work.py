"""Blocking work: one piece a volume, also when its caller has gone."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from csi_liqo.model import errors
from csi_liqo.service.node import work


@pytest.fixture
def pool() -> Iterator[work.Work]:
    made = work.Work(name="test", threads=2)
    yield made
    made.close()


async def test_the_result_and_the_failure_reach_the_caller(pool: work.Work) -> None:
    assert await pool.run("v", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await pool.run("v", lambda: 1 // 0)
    assert await pool.run("v", lambda: 8) == 8


async def test_a_second_call_for_a_volume_is_told_to_come_back(pool: work.Work) -> None:
    go_on = threading.Event()
    first = asyncio.create_task(pool.run("v", go_on.wait))
    await asyncio.sleep(0)
    with pytest.raises(errors.OperationPendingError, match="volume v"):
        await pool.run("v", lambda: True)
    assert await pool.run("other", lambda: True)
    go_on.set()
    assert await first
    assert await pool.run("v", lambda: True)


async def test_a_call_given_up_keeps_its_volume_until_its_thread_ends(pool: work.Work) -> None:
    started, go_on, ended = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow() -> None:
        started.set()
        go_on.wait()
        loop.call_soon_threadsafe(ended.set)
        raise RuntimeError("nobody waits for this any more")

    first = asyncio.create_task(pool.run("v", slow))
    await asyncio.to_thread(started.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(errors.OperationPendingError):
        await pool.run("v", lambda: True)
    go_on.set()
    await ended.wait()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await pool.run("v", lambda: True)
                break
            except errors.OperationPendingError:
                await asyncio.sleep(0)


async def test_the_work_knows_the_call_it_belongs_to(pool: work.Work) -> None:
    call: contextvars.ContextVar[str] = contextvars.ContextVar("call")
    call.set("c-1")
    assert await pool.run("v", call.get) == "c-1"
