"""csi-sanity, the real program, against the driver on a real API server.

It sends no claim and mostly no topology, which means this cluster and its default class,
an Immediate one. Every test that the declared capabilities select must pass; the others
are skipped by csi-sanity itself, and skipped.txt lists each with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import shutil
import signal
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from lab import control_plane, leaks
from tests.cluster import fabric

SKIPPED: Final = pathlib.Path(__file__).parent / "skipped.txt"

# The in-tree provisioner makes its directories where only its own mounts show them: the
# node plugin sees them through the same bind, as it does on a lab's node.
NODE_NAMESPACE: Final = """
set -e
mount --make-rprivate /
mkdir -p /tmp/hostpath_pv
mount --bind "$1" /tmp/hostpath_pv
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Plugin:
    """Both roles of the driver, running."""

    directory: pathlib.Path
    controller_socket: pathlib.Path
    node_socket: pathlib.Path
    node_pid: int


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """A folder whose path leaves room for a socket's name."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="sanity-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def plugin(
    rome: control_plane.ControlPlane, short_path: pathlib.Path
) -> AsyncIterator[Plugin]:
    controller_socket = short_path / "controller.sock"
    controller = fabric.Process(
        fabric.controller_command(controller_socket, rome.kubeconfig_for(fabric.CONTROLLER_USER)),
        short_path / "controller.log",
    )
    kubelet = short_path / "kubelet"
    kubelet.mkdir()
    node_socket = kubelet / "plugins/csi.liqo.io/csi.sock"
    node = fabric.Process(
        [
            *("unshare", "--mount", "sh", "-c", NODE_NAMESPACE, "sh"),
            str(rome.hostpath_directory),
            *(*fabric.PROGRAM, "node", "--cluster-id=rome", "--node-name=rome-1"),
            *(f"--kubelet-dir={kubelet}", "--host-root=/", "--no-registration"),
            *("--health-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"),
        ],
        short_path / "node.log",
    )
    await controller.start()
    await node.start()
    try:
        async with asyncio.timeout(30):
            while not (controller_socket.exists() and node_socket.exists()):
                assert not controller.ended, controller.log.read_text()
                assert not node.ended, node.log.read_text()
                await asyncio.sleep(0.05)
        yield Plugin(kubelet, controller_socket, node_socket, node.pid)
    finally:
        await node.end(signal.SIGTERM)
        await controller.end(signal.SIGTERM)


async def test_csi_sanity_passes_and_skips_only_what_is_listed(
    plugin: Plugin, rome: control_plane.ControlPlane
) -> None:
    before = await leaks.snapshot_cluster("rome", rome.kubeconfig, hostpath=rome.hostpath_directory)
    report = plugin.directory.parent / "report.xml"
    command = [
        *(
            "nsenter",
            f"--mount=/proc/{plugin.node_pid}/ns/mnt",
            str(fabric.BINARIES / "csi-sanity"),
        ),
        f"--csi.endpoint=unix://{plugin.node_socket}",
        f"--csi.controllerendpoint=unix://{plugin.controller_socket}",
        f"--csi.mountdir={plugin.directory}/pods",
        f"--csi.stagingdir={plugin.directory}/staging",
        f"--csi.testvolumesize={64 << 20}",
        f"--csi.junitfile={report}",
        "--ginkgo.no-color",
    ]
    run = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await run.communicate()

    assert run.returncode == 0, output.decode()[-8000:]
    passed, skipped = read(report)
    assert passed
    assert skipped == SKIPPED.read_text().splitlines()
    after = await leaks.snapshot_cluster("rome", rome.kubeconfig, hostpath=rome.hostpath_directory)
    assert leaks.difference(before, after) == []
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(plugin.node_socket.parent / "journal") == []


def read(report: pathlib.Path) -> tuple[list[str], list[str]]:
    """Return the names of the tests that passed, and those skipped with their reasons."""
    passed, skipped = [], []
    for case in ElementTree.parse(report).iter("testcase"):
        name = re.sub(r"^\[It\] ", "", case.get("name", ""))
        reason = case.find("skipped")
        if reason is None:
            passed.append(name)
        else:
            message = reason.get("message", "").removeprefix("skipped - ")
            skipped.append(f"{name}: {message}")
    return passed, sorted(skipped)
