"""Running csi-sanity, and reading what it ran and what it left out."""

from __future__ import annotations

import asyncio
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Final

from tests.cluster import fabric

SKIPPED: Final = pathlib.Path(__file__).parent


async def run(
    enter: Sequence[str], socket: pathlib.Path, kubelet: pathlib.Path, *options: str
) -> tuple[list[str], list[str]]:
    """Run csi-sanity to its end, which must be a good one.

    Args:
        enter: a command that begins a program in the mount namespace of kubelet.
        socket: where both roles are served.
        kubelet: kubelet's folder, in which all that is mounted must be.
        options: more of csi-sanity's own.

    Returns:
        The names of the tests that passed, and of those that were skipped, in order.
    """
    report = socket.with_suffix(".xml")
    child = await asyncio.create_subprocess_exec(
        *enter,
        str(fabric.BINARIES / "csi-sanity"),
        f"--csi.endpoint=unix://{socket}",
        f"--csi.mountdir={kubelet}/pods",
        f"--csi.stagingdir={kubelet}/staging",
        f"--ginkgo.junit-report={report}",
        "--ginkgo.no-color",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()[-12000:]
    return read(report)


def read(report: pathlib.Path) -> tuple[list[str], list[str]]:
    """Return the names of the tests that passed, and those skipped with their reasons."""
    passed, skipped = [], []
    for case in ElementTree.parse(report).iter("testcase"):
        kind, _, name = case.get("name", "").partition(" ")
        if kind != "[It]":
            continue
        reason = case.find("skipped")
        if reason is None:
            passed.append(name)
        else:
            message = re.sub("^skipped - ", "", reason.get("message", ""))
            skipped.append(f"{name}: {message}")
    return passed, sorted(skipped)


def listed(*names: str) -> list[str]:
    """Return the tests that files of this folder list as skipped; their comments say why."""
    lines = [line for name in names for line in (SKIPPED / name).read_text().splitlines()]
    return sorted(line for line in lines if line and not line.startswith("#"))
