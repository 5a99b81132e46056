"""How many volumes a node says it takes, of what the real drivers say."""

from __future__ import annotations

import asyncio
import logging
import pathlib

import pytest

from csi_liqo.host import real_drivers_file
from csi_liqo.model import errors
from csi_liqo.service.node import limits

OWN = "csi.liqo.io"


class Told:
    """What each real driver answers: a limit, an error, or nothing ever."""

    def __init__(self, **answers: int | Exception | None) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, name: str) -> int:
        self.asked.append(name)
        answer = self.answers[name]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "drivers.json"


def limits_of(file: pathlib.Path, told: Told) -> limits.Limits:
    names = real_drivers_file.RealDriversFile(file)
    return limits.Limits(names, told, own_name=OWN, patience_seconds=0.1)


async def test_without_a_file_there_is_no_limit_and_nobody_is_asked(file: pathlib.Path) -> None:
    told = Told()
    assert await limits_of(file, told).most_volumes() == 0
    assert told.asked == []


async def test_the_smallest_limit_counts_and_a_driver_without_one_does_not(
    file: pathlib.Path,
) -> None:
    file.write_text('["a", "b", "c"]')
    assert await limits_of(file, Told(a=0, b=25, c=7)).most_volumes() == 7
    assert await limits_of(file, Told(a=0, b=0, c=0)).most_volumes() == 0


async def test_the_file_and_the_drivers_are_asked_anew_each_time(file: pathlib.Path) -> None:
    file.write_text('["a"]')
    told = Told(a=5, b=3)
    found = limits_of(file, told)
    assert await found.most_volumes() == 5
    told.answers["a"] = 9
    assert await found.most_volumes() == 9
    file.write_text('["a", "b"]')
    assert await found.most_volumes() == 3
    file.write_text("[]")
    assert await found.most_volumes() == 0


@pytest.mark.parametrize(
    "trouble",
    [errors.OutcomeUnknownError("it is not registered"), errors.RealDriverError(13, "no"), None],
    ids=["absent", "refuses", "silent"],
)
async def test_a_driver_that_does_not_answer_keeps_its_last_limit_and_is_named_once(
    file: pathlib.Path, trouble: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text('["a", "b"]')
    told = Told(a=5, b=30)
    found = limits_of(file, told)
    assert await found.most_volumes() == 5
    told.answers["a"] = trouble
    with caplog.at_level(logging.WARNING):
        assert await found.most_volumes() == 5
        assert await found.most_volumes() == 5
    (line,) = caplog.messages
    assert line.startswith("a does not tell its limit of volumes, the last one, 5, is kept")
    told.answers["a"] = 0
    assert await found.most_volumes() == 30


async def test_a_driver_that_never_answered_has_no_limit(
    file: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text('["a", "b"]')
    told = Told(a=errors.OutcomeUnknownError("it is not registered"), b=30)
    with caplog.at_level(logging.WARNING):
        assert await limits_of(file, told).most_volumes() == 30
    assert "it counts as having none: it is not registered" in caplog.text


async def test_this_driver_never_asks_itself(file: pathlib.Path) -> None:
    file.write_text(f'["{OWN}", "a"]')
    told = Told(a=4)
    assert await limits_of(file, told).most_volumes() == 4
    assert told.asked == ["a"]


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[1]"])
async def test_a_file_that_says_nothing_leaves_what_was_known(
    file: pathlib.Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text('["a"]')
    told = Told(a=5)
    found = limits_of(file, told)
    assert await found.most_volumes() == 5
    file.write_text(content)
    told.answers["a"] = 6
    with caplog.at_level(logging.WARNING):
        assert await found.most_volumes() == 6
    assert str(file) in caplog.text
