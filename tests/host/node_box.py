"""A node's two mount namespaces and the real node program in them, as a kubelet sees it.

The host's namespace has kubelet's folder as a shared mount; the container's is
made from it, so that what is mounted below kubelet's folder appears on the host
(``Bidirectional``), while the host's root folder is a slave (``HostToContainer``).
Tests look at the host's side. Everything mounted goes with the processes that
hold the namespaces, and nothing of it ever shows outside.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping

from csi_liqo.host import mountinfo

ROOT = pathlib.Path(__file__).parents[2]

_HOST = """
set -e
mount --make-rprivate /
for folder in "$1/kubelet" "$1/host"; do
    mount --bind "$folder" "$folder"
    mount --make-shared "$folder"
done
echo ready
read -r _
"""
_CONTAINER = """
set -e
mount --rbind "$1/host" "$1/seen"
mount --make-rslave "$1/seen"
echo ready
read -r _
"""


def wait_until(path: pathlib.Path, program: subprocess.Popen[bytes]) -> None:
    """Wait for a socket to appear; fail when its program ends first."""
    deadline = time.monotonic() + 20
    while not path.exists():
        assert program.poll() is None, f"the program ended with {program.returncode}"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


class Box:
    """One node. ``kubelet`` and ``host`` are the folders as the host has them."""

    def __init__(self) -> None:
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="node-"))
        self.kubelet = self.root / "kubelet"
        self.host = self.root / "host"
        self.seen = self.root / "seen"
        for folder in (self.kubelet / "plugins_registry", self.host / "dev", self.seen):
            folder.mkdir(parents=True)
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.root)
        self._devices: list[str] = []
        self._stack.callback(self._detach)
        own = ["unshare", "--mount", "--propagation", "private"]
        self._host = self._hold([*own, "sh", "-c", _HOST])
        self._container = self.another_container(_CONTAINER)

    def another_container(self, script: str = "echo ready; read -r _") -> subprocess.Popen[bytes]:
        """Make a mount namespace whose mounts below kubelet's folder the host shares."""
        inner = ["unshare", "--mount", "--propagation", "unchanged"]
        return self._hold([*self.entering(self._host.pid), *inner, "sh", "-c", script])

    def close(self) -> None:
        """End the namespaces and with them every mount."""
        self._stack.close()

    @property
    def driver(self) -> pathlib.Path:
        return self.kubelet / "plugins" / "csi.liqo.io"

    @property
    def host_pid(self) -> int:
        """The process that holds the host's mount namespace."""
        return self._host.pid

    @property
    def journal(self) -> list[str]:
        """Names of the journal's files, also unfinished ones."""
        folder = self.driver / "journal"
        return sorted(os.listdir(folder)) if folder.exists() else []

    def entering(self, holder: int) -> list[str]:
        return ["nsenter", f"--mount=/proc/{holder}/ns/mnt"]

    def on_host(self, *command: str) -> str:
        """Run a command on the host; return what it printed."""
        done = subprocess.run(
            [*self.entering(self._host.pid), *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def start(self, *command: str, talks: bool = False) -> subprocess.Popen[bytes]:
        """Start a program in the container, connected by pipes when it ``talks``."""
        pipe = subprocess.PIPE if talks else None
        return subprocess.Popen(
            [*self.entering(self._container.pid), *command],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=pipe,
            stdout=pipe,
        )

    def path(self, path: pathlib.Path) -> pathlib.Path:
        """Return a path through which this process sees what the host has there."""
        return pathlib.Path(f"/proc/{self._host.pid}/root{path}")

    def mounts(self, below: pathlib.Path | None = None) -> list[mountinfo.Mount]:
        """Return the host's mounts strictly below a folder, kubelet's unless told."""
        table = pathlib.Path(f"/proc/{self._host.pid}/mountinfo").read_bytes()
        start = f"{below or self.kubelet}/"
        return [mount for mount in mountinfo.parse(table) if mount.point.startswith(start)]

    def unmount_all(self) -> None:
        """Unmount all below kubelet's folder, as a reboot does."""
        for mount in reversed(self.mounts()):
            self.on_host("umount", mount.point)

    def arguments(self) -> list[str]:
        return [
            *("--cluster-id", "rome", "--node-name", "rome-1"),
            *("--kubelet-dir", str(self.kubelet), "--host-root", str(self.seen)),
            *("--health-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
        ]

    @contextlib.contextmanager
    def serving(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the node program; it is told to stop at the end, if it still runs."""
        command = [sys.executable, "-m", "csi_liqo.cli", "node", *self.arguments(), *more]
        program = self.start(*command)
        try:
            last = "csi.sock" if "--no-registration" in more else None
            registered = self.kubelet / "plugins_registry" / "csi.liqo.io-reg.sock"
            wait_until(self.driver / last if last else registered, program)
            yield program
        finally:
            if program.poll() is None:
                program.send_signal(signal.SIGTERM)
            program.wait(30)

    def folder(self, name: str, content: Mapping[str, str] | None = None) -> str:
        """Make a folder with files on the host; return its path as the host has it."""
        folder = self.host / name
        folder.mkdir(parents=True)
        for file, text in (content or {}).items():
            (folder / file).write_text(text)
        return f"/{name}"

    def device(self, name: str, *, mebibytes: int = 32, formatted: str = "") -> str:
        """Make a block device on the host; return its path as the host has it."""
        image = self.root / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(mebibytes << 20)
        if formatted:
            subprocess.run([f"mkfs.{formatted}", "-q", str(image)], check=True)
        loop = subprocess.run(
            ["losetup", "--find", "--show", str(image)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        self._devices.append(loop)
        node = self.host / "dev" / name
        os.mknod(node, 0o600 | os.stat(loop).st_mode, os.stat(loop).st_rdev)
        return f"/dev/{name}"

    def staging(self, volume: str) -> str:
        """Make the folder kubelet makes before NodeStage."""
        folder = self.kubelet / "plugins/kubernetes.io/csi/csi.liqo.io" / volume / "globalmount"
        self.path(folder).mkdir(parents=True, exist_ok=True)
        return str(folder)

    def target(self, volume: str, pod: str = "pod-1") -> str:
        """Make the folder kubelet makes before NodePublish; return the target in it."""
        folder = self.kubelet / "pods" / pod / "volumes/kubernetes.io~csi" / volume
        self.path(folder).mkdir(parents=True, exist_ok=True)
        return str(folder / "mount")

    def _hold(self, command: list[str]) -> subprocess.Popen[bytes]:
        holder = subprocess.Popen(
            [*command, "sh", str(self.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

        def end() -> None:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(10)
            assert holder.stdout is not None
            holder.stdout.close()

        self._stack.callback(end)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        return holder

    def _detach(self) -> None:
        for loop in self._devices:
            subprocess.run(["losetup", "--detach", loop], check=True)
