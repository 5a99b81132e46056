"""The tests' command line, and which of them may run at once: most of their time is waiting."""

from __future__ import annotations

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

WHOLE_LABS: Final = "tests/e2e/"
"""Tests with kubelets and containers: one lab is what two cores carry beside the rest."""


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Keeps together what shares API servers: the tests of a file, and those on whole labs."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return WHOLE_LABS if file.startswith(WHOLE_LABS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(WHOLE_LABS))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak", "the soak of tests/soak")
    group.addoption(
        "--soak-seconds", type=float, default=120.0, help="how long faults happen [120]"
    )
    group.addoption(
        "--soak-seed", type=int, default=None, help="their sequence; told by each soak [random]"
    )
