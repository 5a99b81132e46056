"""A real CSI driver on the node of the tests: lab/loopdriver, in a container of its own.

It shares nothing with this project's code, refuses what the specification lets a
driver refuse, and notes every call it gets. Its volumes are made over its own
controller, as a provisioner would.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

from csi_liqo.model import source
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import settings
from tests.host import kubelet_calls, node_box

NAME = "loop.csi.example.com"
PROGRAM = settings.DEFAULT_INSTANCE / "bin" / "loopdriver"


class LoopDriver:
    """One node plugin of the real driver, with its controller in the same process."""

    def __init__(self, box: node_box.Box) -> None:
        self.box = box
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="loop-", dir=box.root))
        self.socket = box.kubelet / "plugins" / NAME / "csi.sock"
        self.registration = box.kubelet / "plugins_registry" / f"{NAME}-reg.sock"
        self._container = box.another_container()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Start the program and wait until it can be found."""
        for stale in (self.socket, self.registration):
            stale.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                *self.box.entering(self._container.pid),
                *(str(PROGRAM), "--state-dir", str(self.state), "--node-name", "rome-1"),
                *("--kubelet-dir", str(self.box.kubelet), *more),
            ]
        )
        for socket in (self.socket, *(() if "--no-registration" in more else (self.registration,))):
            node_box.wait_until(socket, self.process)

    def stop(self, *, kill: bool = False) -> None:
        """End the program, which may have ended itself."""
        if self.process is None:
            return
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(20)

    @contextlib.contextmanager
    def serving(self, *more: str) -> Iterator[LoopDriver]:
        """Run the program; at the end its volumes' loop devices must be gone by themselves."""
        self.start(*more)
        try:
            yield self
        finally:
            self.stop()

    def calls(self, method: str = "") -> list[dict[str, Any]]:
        """Return the calls that arrived, the oldest first."""
        file = self.state / "calls" / "rome-1.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        noted = [json.loads(line) for line in lines]
        return [call for call in noted if method in ("", call["method"])]

    def fault(self, method: str, **fault: object) -> None:
        """Make a method slow or fail, as the driver's own faults.json says."""
        (self.state / "faults.json").write_text(json.dumps({method: fault}))

    def wait_for_fault(self, method: str) -> None:
        """Wait until a fault with ``times`` 1 has been taken by a call."""
        end = time.monotonic() + 20
        file = self.state / "faults.json"
        while json.loads(file.read_text() or "{}").get(method, {}).get("times") != 0:
            assert time.monotonic() < end, f"{method} was not called"
            time.sleep(0.01)

    def detach(self) -> None:
        """Take the loop devices away, as a reboot does."""
        for line in self.loops():
            subprocess.run(["losetup", "--detach", line.split()[0]], check=True)

    async def expand(self, volume: kubelet_calls.Volume, size_bytes: int) -> None:
        """Grow a real volume, as the resizer does before kubelet is asked."""
        found = source.from_context(volume.context).csi
        assert found is not None
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            await csi_pb2_grpc.ControllerStub(channel).ControllerExpandVolume(
                csi_pb2.ControllerExpandVolumeRequest(
                    volume_id=found.handle,
                    capacity_range=csi_pb2.CapacityRange(required_bytes=size_bytes),
                )
            )

    def loops(self) -> list[str]:
        """Return the loop devices of this driver's images."""
        listed = subprocess.run(
            ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"],
            check=True,
            capture_output=True,
            text=True,
        )
        return [line for line in listed.stdout.splitlines() if str(self.state) in line]

    async def volume(
        self, name: str, *, fs_type: str = "ext4", block: bool = False, **more: object
    ) -> kubelet_calls.Volume:
        """Make a real volume; return the virtual one that kubelet sees of it.

        Its id is ``name`` and the real one's is another. ``more`` goes into the CSI source.
        """
        capability = kubelet_calls.capability(block=block)
        if not block:
            capability.mount.fs_type = fs_type
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            answer = await csi_pb2_grpc.ControllerStub(channel).CreateVolume(
                csi_pb2.CreateVolumeRequest(
                    name=f"real-{name}",
                    capacity_range=csi_pb2.CapacityRange(required_bytes=320 << 20),
                    volume_capabilities=[capability],
                    accessibility_requirements=csi_pb2.TopologyRequirement(
                        preferred=[csi_pb2.Topology(segments=await self._segment(channel))],
                        requisite=[csi_pb2.Topology(segments=await self._segment(channel))],
                    ),
                )
            )
        more.setdefault("access_modes", ("ReadWriteOnce",))
        described = source.Source(
            kind=source.Kind.CSI,
            fs_type="" if block else fs_type,
            volume_mode=source.VolumeMode.BLOCK if block else source.VolumeMode.FILESYSTEM,
            csi=source.CsiSource(
                driver=NAME,
                handle=answer.volume.volume_id,
                persistent_volume=f"pv-{name}",
                attributes=dict(answer.volume.volume_context),
                **more,  # type: ignore[arg-type]  # by name
            ),
        )
        # kubelet knows the virtual class only, whose filesystem is the provisioner's default.
        seen = kubelet_calls.capability(block=block, mode="SINGLE_NODE_MULTI_WRITER")
        return kubelet_calls.Volume(name, source.to_context(described), capability=seen)

    async def _segment(self, channel: grpc.aio.Channel) -> dict[str, str]:
        stub = csi_pb2_grpc.NodeStub(channel)
        info = await stub.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
        return dict(info.accessible_topology.segments)


def staged_at(box: node_box.Box) -> list[str]:
    """Return the paths below kubelet's folder of plugins where something is mounted."""
    return [mount.point for mount in box.mounts(box.kubelet / "plugins/kubernetes.io/csi")]
