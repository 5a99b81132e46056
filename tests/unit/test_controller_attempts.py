"""The notes of what may be in a provider: one write for all that wait, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from csi_liqo.model import attempts as model
from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import attempts

PLACE = ("csi-liqo-storage", names.ATTEMPTS_CONFIG_MAP)


class Stored:
    """One ConfigMap: each write waits until the test lets it be made."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.cached: objects.ConfigMap | None = None
        self.asked: list[dict[str, str | None]] = []
        self.failure: errors.ApiError | None = None
        self.allowed = asyncio.Semaphore(0)
        self._changed = asyncio.Event()

    def get(self, namespace: str, name: str) -> objects.ConfigMap | None:
        assert (namespace, name) == PLACE
        return self.cached

    async def patch(self, namespace: str, name: str, patch: dict[str, Any]) -> objects.ConfigMap:
        assert (namespace, name) == PLACE
        self.asked.append(dict(patch["data"]))
        self._changed.set()
        await self.allowed.acquire()
        if self.failure is not None:
            raise self.failure
        for key, value in patch["data"].items():
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value
        return self._read()

    def _read(self) -> objects.ConfigMap:
        metadata = objects.Metadata(namespace=PLACE[0], name=PLACE[1])
        return objects.ConfigMap(metadata=metadata, data=dict(self.data))

    def show(self) -> None:
        """Bring what is stored into the cache."""
        self.cached = self._read()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def noted(stored: Stored) -> attempts.Attempts:
    return attempts.Attempts(stored, PLACE[0])  # type: ignore[arg-type]  # what it uses of it


def claim(number: int, uid: str = "") -> objects.Claim:
    metadata = objects.Metadata(namespace="demo", name=f"data-{number}", uid=uid or f"u{number}")
    return objects.Claim(metadata=metadata)


def begin(noted: attempts.Attempts, number: int) -> asyncio.Task[None]:
    return asyncio.create_task(noted.note(claim(number), "milan"))


async def test_notes_that_wait_are_made_by_one_write(
    noted: attempts.Attempts, stored: Stored
) -> None:
    first = begin(noted, 0)
    await stored.until(lambda: len(stored.asked) == 1)
    others = [begin(noted, number) for number in range(1, 100)]
    await asyncio.sleep(0)
    assert not noted.begun(claim(0), "milan")

    stored.allowed.release()
    await first
    assert noted.begun(claim(0), "milan")
    assert not noted.begun(claim(1), "milan")
    stored.allowed.release()
    await asyncio.gather(*others)

    assert [len(asked) for asked in stored.asked] == [1, 99]
    assert stored.data["u7"] == "milan/demo/data-7"
    assert all(noted.begun(claim(number), "milan") for number in range(100))


async def test_a_claim_is_noted_once_and_only_for_itself(
    noted: attempts.Attempts, stored: Stored
) -> None:
    stored.allowed.release()
    await begin(noted, 0)
    await begin(noted, 0)

    assert len(stored.asked) == 1
    assert not noted.begun(claim(0, uid="its-successor"), "milan")
    assert not noted.begun(claim(0), "paris")


async def test_a_write_that_fails_fails_all_of_it_and_is_made_anew(
    noted: attempts.Attempts, stored: Stored
) -> None:
    first = begin(noted, 0)
    await stored.until(lambda: len(stored.asked) == 1)
    others = [begin(noted, number) for number in (1, 2)]
    await asyncio.sleep(0)
    stored.failure = errors.ApiUnavailableError("the server is away")
    stored.allowed.release()
    stored.allowed.release()

    found = await asyncio.gather(first, *others, return_exceptions=True)

    assert [type(one) for one in found] == [errors.OperationPendingError] * 3
    assert "claim demo/data-2 goes to cluster milan could not be noted" in str(found[2])
    assert len(stored.asked) == 2
    assert noted.all() == {}
    stored.failure = None
    stored.allowed.release()
    await begin(noted, 2)
    assert noted.begun(claim(2), "milan")


async def test_a_call_that_is_given_up_leaves_its_write_to_the_next(
    noted: attempts.Attempts, stored: Stored
) -> None:
    first = begin(noted, 0)
    await stored.until(lambda: len(stored.asked) == 1)
    writer, other = begin(noted, 1), begin(noted, 2)
    await asyncio.sleep(0)
    stored.allowed.release()
    await first
    await stored.until(lambda: len(stored.asked) == 2)

    writer.cancel()
    await asyncio.wait({writer})
    await stored.until(lambda: len(stored.asked) == 3)
    stored.allowed.release()
    await other

    assert stored.asked[2] == stored.asked[1]
    assert noted.begun(claim(2), "milan")


async def test_a_missing_config_map_is_told_with_its_remedy(
    noted: attempts.Attempts, stored: Stored
) -> None:
    stored.failure = errors.ApiNotFoundError('configmaps "csi-liqo-attempts" not found')
    stored.allowed.release()

    with pytest.raises(errors.OperationPendingError, match="apply the manifests again"):
        await begin(noted, 0)


async def test_what_is_taken_away_is_believed_once_the_note_was_seen(
    noted: attempts.Attempts, stored: Stored
) -> None:
    stored.allowed.release()
    await begin(noted, 0)
    noted.seen()
    assert noted.begun(claim(0), "milan"), "the cache is behind"

    stored.show()
    noted.seen()
    stored.data.clear()
    stored.show()
    noted.seen()

    assert not noted.begun(claim(0), "milan")


async def test_an_ended_attempt_is_no_more(noted: attempts.Attempts, stored: Stored) -> None:
    stored.allowed.release()
    await begin(noted, 0)
    stored.allowed.release()
    await noted.end({"u0"})

    assert noted.all() == {}
    assert stored.data == {}


def test_what_somebody_else_wrote_is_no_attempt() -> None:
    data = {"u0": "milan/demo/data", "note": "not ours", "u1": "milan//data", "u2": "a/b/c/d"}

    assert model.read(data) == {"u0": model.Attempt("milan", "demo", "data")}
