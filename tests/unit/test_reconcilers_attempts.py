"""When the note of an attempt comes to its end, and what it takes to know that."""

from __future__ import annotations

import pytest

from csi_liqo.model import attempts as model
from csi_liqo.model import objects
from csi_liqo.reconcilers import attempts
from tests.unit.test_controller_attempts import claim


class Claims:
    """Claims that are there, of which the cache has seen some."""

    def __init__(self, *there: objects.Claim) -> None:
        self.synced = True
        self.read_names: list[str] = []
        self._there = {one.name: one for one in there}
        self.cached = dict(self._there)

    def get(self, _: str, name: str) -> objects.Claim | None:
        return self.cached.get(name)

    async def read(self, _: str, name: str) -> objects.Claim | None:
        self.read_names.append(name)
        return self._there.get(name)


class Noted:
    """Notes of claims 0, 1, 2, without a write."""

    def __init__(self) -> None:
        self.notes = {f"u{n}": model.Attempt.of(claim(n), "milan") for n in range(3)}

    def all(self) -> dict[str, model.Attempt]:
        return self.notes

    async def end(self, uids: set[str]) -> None:
        self.notes = {uid: note for uid, note in self.notes.items() if uid not in uids}


@pytest.fixture
def noted() -> Noted:
    return Noted()


def ended(noted: Noted, claims: Claims) -> attempts.EndedAttempts:
    return attempts.EndedAttempts(noted, claims)  # type: ignore[arg-type]  # what it uses of them


async def test_the_note_of_a_claim_that_waits_stays(noted: Noted) -> None:
    claims = Claims(claim(0), claim(1), claim(2))
    await ended(noted, claims).reconcile(attempts.KEY)
    assert set(noted.notes) == {"u0", "u1", "u2"}
    assert claims.read_names == []


async def test_a_claim_that_was_seen_to_go_is_not_looked_for_again(noted: Noted) -> None:
    claims = Claims(claim(0))
    reconciler = ended(noted, claims)
    for uid in ("u1", "u2", "of-another"):
        reconciler.gone(uid)
    await reconciler.reconcile(attempts.KEY)
    assert set(noted.notes) == {"u0"}
    assert claims.read_names == []


async def test_a_claim_that_only_the_cache_lacks_keeps_its_note(noted: Noted) -> None:
    """Another replica may see it first."""
    claims = Claims(claim(0), claim(1))
    del claims.cached["data-1"]
    await ended(noted, claims).reconcile(attempts.KEY)
    assert set(noted.notes) == {"u0", "u1"}
    assert claims.read_names == ["data-1", "data-2"]


async def test_nothing_ends_while_the_cache_may_lack_anything(noted: Noted) -> None:
    claims = Claims()
    claims.synced = False
    assert await ended(noted, claims).reconcile(attempts.KEY) is not None
    assert len(noted.notes) == 3
