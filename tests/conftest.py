"""The tests' command line, and which of them may run at once: most of their time is waiting."""

from __future__ import annotations

import pathlib
from typing import Final

import pytest

ROOT: Final = pathlib.Path(__file__).parent
ONE_AT_A_TIME: Final = "e2e"
"""The folder whose tests share a whole lab, and the longest: it begins first."""


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, because they share what it starts."""
    for item in items:
        group = ONE_AT_A_TIME if _is_alone(item) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_is_alone, reverse=True)


def _is_alone(item: pytest.Item) -> bool:
    return item.path.relative_to(ROOT).parts[0] == ONE_AT_A_TIME


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak", "the soak of tests/soak")
    group.addoption(
        "--soak-seconds", type=float, default=120.0, help="how long faults happen [120]"
    )
    group.addoption(
        "--soak-seed", type=int, default=None, help="their sequence; told by each soak [random]"
    )
