"""For a while anything may happen to providers and controllers; then every volume is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lab import leaks
from tests.soak import account, chaos, plan, world

CONVERGENCE_SECONDS: Final = 150.0
"""How soon all has to be well. The longest waits are those between attempts that were refused."""
STEADY_SECONDS: Final = world.GRACE_SECONDS + 5.0
"""How long it has to stay well: longer than whatever collects twins bides its time."""
TIDY_SECONDS: Final = 60.0
"""How long marks on nodes and providers may outlive the last volume."""


async def test_after_any_sequence_of_faults_every_claim_and_twin_is_accounted_for(
    soak_seconds: float, soak_seed: int, tell: Callable[[str], None], tmp_path: Path
) -> None:
    steps = plan.draw(soak_seed, soak_seconds)
    again = f'make soak ARGS="--soak-seconds={soak_seconds:g} --soak-seed={soak_seed}"'
    begun = time.monotonic()

    def note(what: str) -> None:
        tell(f"{time.monotonic() - begun:6.1f} s  {what}")

    tell(f"seed {soak_seed}, {soak_seconds:g} s, {len(steps)} steps; again: {again}")
    async with world.running(tmp_path) as where:
        before = await where.snapshot()
        note("everything runs")
        doing = chaos.Chaos(where)
        try:
            await doing.run(steps)
            note("everything is let free")
            wrong = await _converged(where, doing)
            note("every claim is as it has to be" if not wrong else "this is not as it has to be")
            for line in account.sums(where.seen, doing.wanted):
                note(line)
            await doing.clear()
            wrong += await _cleared(where, doing, before)
            note("all claims are deleted, and this is left")
            for line in account.sums(where.seen, doing.wanted):
                note(line)
        except BaseException:
            _explain(again, doing, where, ["it did not come to its end"])
            raise
        if wrong:
            _explain(again, doing, where, wrong)
        assert not wrong, f"{again}\n" + "\n".join(wrong)


async def _converged(where: world.World, doing: chaos.Chaos) -> list[str]:
    wrong = await _until_steady(where, lambda: account.differences(where.seen, doing.wanted))
    return wrong + account.unlisted(where.seen, await where.listed())


async def _cleared(where: world.World, doing: chaos.Chaos, before: leaks.Snapshot) -> list[str]:
    def left() -> list[str]:
        going = [
            f"does not go: {life}"
            for lives in (where.seen.virtual_claims, where.seen.virtual_volumes)
            for life in lives
            if life.alive
        ]
        return going + account.differences(where.seen, doing.wanted)

    wrong = await _until_steady(where, left)
    wrong += account.unlisted(where.seen, await where.listed())
    return wrong or await _tidied(where, before)


async def _until_steady(where: world.World, left: Callable[[], list[str]]) -> list[str]:
    """Return what is wrong in the end: nothing, once that has been so for long enough.

    Each piece of news is looked at.
    """
    try:
        async with asyncio.timeout(CONVERGENCE_SECONDS):
            while not await _stays_empty(where, left):
                while left():
                    await where.seen.news()
    except TimeoutError:
        pass
    return left()


async def _stays_empty(where: world.World, left: Callable[[], list[str]]) -> bool:
    try:
        async with asyncio.timeout(STEADY_SECONDS):
            while not left():
                await where.seen.news()
    except TimeoutError:
        return True
    return False


async def _tidied(where: world.World, before: leaks.Snapshot) -> list[str]:
    """Return what came or went in the three clusters and on the disks, all in all."""
    left = account.left_over(where.seen, before, await where.snapshot())
    try:
        async with asyncio.timeout(TIDY_SECONDS):
            while left:
                await asyncio.sleep(1)  # many kinds at once: no single watch tells
                left = account.left_over(where.seen, before, await where.snapshot())
    except TimeoutError:
        pass
    return left


def _explain(again: str, doing: chaos.Chaos, where: world.World, wrong: Sequence[str]) -> None:
    """Print all that a person needs: how to do it again, what happened, what is wrong."""
    world.show_logs(where)
    print("\n".join(["--- what happened", *doing.log]))
    lives = [*where.seen.claims.values(), *where.seen.volumes.values()]
    print("\n".join(["--- what there was", *map(str, lives)]))
    print("\n".join(["--- what is wrong", again, *wrong]), flush=True)
