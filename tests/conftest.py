"""The options of the tests' command line: pytest reads them from here however it is called."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak", "the soak of tests/soak")
    group.addoption(
        "--soak-seconds", type=float, default=120.0, help="how long faults happen [120]"
    )
    group.addoption(
        "--soak-seed", type=int, default=None, help="their sequence; told by each soak [random]"
    )
