"""csi-sanity, the real program, against the driver on a real API server.

It sends no claim and mostly no topology, which means this cluster and its default class,
an Immediate one of hostPath volumes. Every test that the declared capabilities select must
pass; the others are skipped by csi-sanity itself, and listed beside this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from lab import control_plane, leaks
from tests.cluster import fabric
from tests.sanity import front, program

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
        await front.wait_until_ready(controller_socket)
        yield Plugin(kubelet, controller_socket, node_socket, node.pid)
    finally:
        await node.end(signal.SIGTERM)
        await controller.end(signal.SIGTERM)


async def test_csi_sanity_passes_and_skips_only_what_is_listed(
    plugin: Plugin, rome: control_plane.ControlPlane
) -> None:
    before = await leaks.snapshot_cluster("rome", rome.kubeconfig, hostpath=rome.hostpath_directory)
    socket = plugin.directory.parent / "front.sock"
    async with front.serving(socket, controller=plugin.controller_socket, node=plugin.node_socket):
        passed, skipped = await program.run(
            ["nsenter", f"--mount=/proc/{plugin.node_pid}/ns/mnt"],
            socket,
            plugin.directory,
            f"--csi.testvolumesize={64 << 20}",
        )

    assert passed
    assert skipped == program.listed("skipped.txt", "skipped-attach-false.txt")
    after = await leaks.snapshot_cluster("rome", rome.kubeconfig, hostpath=rome.hostpath_directory)
    # The controller clears away at its start what said how much room an earlier test's class had.
    cleared = "- rome: csistoragecapacities "
    left = [entry for entry in leaks.difference(before, after) if not entry.startswith(cleared)]
    assert left == []
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(plugin.node_socket.parent / "journal") == []
