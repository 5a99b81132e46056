"""The demo as a person runs it, on a lab of its own: `make demo`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab import instance, lifecycle, settings

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    directory = tmp_path_factory.mktemp("lab")
    yield directory
    asyncio.run(lifecycle.down(instance.Instance(directory), print))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", ["on-a-fresh-lab", "on-a-used-lab"])
def test_the_demo_shows_the_main_job_and_leaves_nothing_behind(
    directory: pathlib.Path, run: str
) -> None:
    command = [sys.executable, "-m", "lab.demo", "--instance", str(directory), "--leak-check"]

    answer = subprocess.run(
        command, cwd=settings.REPOSITORY, capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "didn't match PersistentVolume's" in answer.stdout
    assert "is in rome" in answer.stdout
    assert "is in milan" in answer.stdout
