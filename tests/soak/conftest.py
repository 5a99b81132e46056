"""How long a soak takes, which sequence it goes through, and where it tells its account."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

import pytest

AFTERWARDS_SECONDS: Final = 540.0
"""What starting, converging and clearing may take at the very most."""

_TOLD: Final = pytest.StashKey[list[str]]()

Tell = Callable[[str], None]


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    for item in items:
        if "soak_seed" in getattr(item, "fixturenames", ()):
            limit = float(config.getoption("--soak-seconds")) + AFTERWARDS_SECONDS
            item.add_marker(pytest.mark.timeout(limit))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell the seed and the account of a soak that passed, too: pytest swallows its output."""
    told = config.stash.get(_TOLD, [])
    if told:
        terminalreporter.section("soak")
        for line in told:
            terminalreporter.write_line(line)


@pytest.fixture
def soak_seconds(pytestconfig: pytest.Config) -> float:
    """How long the random part takes."""
    return float(pytestconfig.getoption("--soak-seconds"))


@pytest.fixture
def soak_seed(pytestconfig: pytest.Config) -> int:
    """The seed of the sequence: as given, or another one each time."""
    given = pytestconfig.getoption("--soak-seed")
    return random.SystemRandom().randrange(1_000_000) if given is None else int(given)


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Tell:
    """What prints a line at once, for who watches, and again at the end of the run."""
    told = pytestconfig.stash.setdefault(_TOLD, [])

    def say(line: str) -> None:
        print(line, flush=True)
        told.append(line)

    return say
