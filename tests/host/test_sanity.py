"""csi-sanity's node tests against the node plugin over a real driver, without Kubernetes.

It needs a controller that makes volumes. Here that is the real driver's own, whose
answer becomes the source of a virtual volume as the driver's controller would write it;
the whole driver has its run of csi-sanity elsewhere.
"""

from __future__ import annotations

import asyncio
import pathlib
import xml.etree.ElementTree as ElementTree
from typing import Any

import grpc
import grpc.aio
import pytest

from csi_liqo.model import source
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import settings
from tests.host import node_box, real_driver
from tests.host.real_driver import LoopDriver

PROGRAM = settings.DEFAULT_INSTANCE / "bin" / "csi-sanity"
RPC = csi_pb2.ControllerServiceCapability.RPC

SKIPPED = [
    # Not advertised, and not kubelet's to ask as long as its gate is alpha.
    "NodeGetStorageHealth should return appropriate response",
    "NodeGetVolumeHealth should fail when no volume id is provided",
    "NodeGetVolumeHealth should return health for a valid volume",
    # The node's own socket serves no controller; test_passthrough has the same.
    "should be idempotent",
    "should work",
]


class Translating(csi_pb2_grpc.ControllerServicer):
    """The real driver's controller, with ids and contexts as a virtual volume has them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._real = csi_pb2_grpc.ControllerStub(channel)
        self._node = csi_pb2_grpc.NodeStub(channel)
        self._handles: dict[str, str] = {}

    async def ControllerGetCapabilities(self, request: Any, context: Any) -> Any:  # noqa: N802
        kinds = (RPC.CREATE_DELETE_VOLUME, RPC.EXPAND_VOLUME, RPC.SINGLE_NODE_MULTI_WRITER)
        return csi_pb2.ControllerGetCapabilitiesResponse(
            capabilities=[csi_pb2.ControllerServiceCapability(rpc=RPC(type=kind)) for kind in kinds]
        )

    async def CreateVolume(self, request: csi_pb2.CreateVolumeRequest, context: Any) -> Any:  # noqa: N802
        info = await self._node.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
        request.accessibility_requirements.CopyFrom(
            csi_pb2.TopologyRequirement(requisite=[info.accessible_topology])
        )
        for capability in request.volume_capabilities:
            if capability.HasField("mount"):
                capability.mount.fs_type = "xfs"  # the real class's; ext4 asks more to grow
        volume = (await self._real.CreateVolume(request)).volume
        used = request.volume_capabilities[0]
        block = used.WhichOneof("access_type") == "block"
        described = source.Source(
            kind=source.Kind.CSI,
            fs_type=used.mount.fs_type,
            volume_mode=source.VolumeMode.BLOCK if block else source.VolumeMode.FILESYSTEM,
            csi=source.CsiSource(
                driver=real_driver.NAME,
                handle=volume.volume_id,
                persistent_volume=volume.volume_id,
                attributes=dict(volume.volume_context),
            ),
        )
        virtual = f"virtual-{volume.volume_id}"
        self._handles[virtual] = volume.volume_id
        return csi_pb2.CreateVolumeResponse(
            volume=csi_pb2.Volume(
                volume_id=virtual,
                capacity_bytes=volume.capacity_bytes,
                volume_context=source.to_context(described),
            )
        )

    async def DeleteVolume(self, request: csi_pb2.DeleteVolumeRequest, context: Any) -> Any:  # noqa: N802
        request.volume_id = self._handles.get(request.volume_id, request.volume_id)
        return await self._real.DeleteVolume(request)

    async def ControllerExpandVolume(  # noqa: N802
        self, request: csi_pb2.ControllerExpandVolumeRequest, context: Any
    ) -> Any:
        request.volume_id = self._handles.get(request.volume_id, request.volume_id)
        return await self._real.ControllerExpandVolume(request)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("access", ["mount", "block"])
async def test_csi_sanitys_node_tests_pass_over_a_real_driver(
    box: node_box.Box, real: LoopDriver, access: str
) -> None:
    report = box.root / "report.xml"
    controller = box.root / "controller.sock"
    with real.serving(), box.serving():
        async with grpc.aio.insecure_channel(f"unix:{real.socket}") as channel:
            server = grpc.aio.server()
            csi_pb2_grpc.add_ControllerServicer_to_server(Translating(channel), server)
            server.add_insecure_port(f"unix:{controller}")
            await server.start()
            run = await asyncio.create_subprocess_exec(
                *box.entering(box.host_pid),
                str(PROGRAM),
                f"--csi.endpoint=unix://{box.driver}/csi.sock",
                f"--csi.controllerendpoint=unix://{controller}",
                f"--csi.mountdir={box.kubelet}/target",
                f"--csi.stagingdir={box.kubelet}/staging",
                f"--csi.testvolumesize={320 << 20}",
                f"--csi.testvolumeexpandsize={640 << 20}",
                f"--csi.testvolumeaccesstype={access}",
                f"--csi.junitfile={report}",
                "--ginkgo.focus=Node Service",
                "--ginkgo.no-color",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await run.communicate()
            await server.stop(1)
    assert run.returncode == 0, output.decode()[-6000:]
    passed, skipped = read(report)
    assert passed == 22
    assert skipped == SKIPPED
    assert not box.mounts()
    assert not real.loops()
    assert box.journal == []


def read(report: pathlib.Path) -> tuple[int, list[str]]:
    """Return how many node tests passed, and the names of those left out by themselves."""
    passed, skipped = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        group, _, name = case.get("name", "").partition("Node Service ")
        if group != "[It] ":
            continue
        if case.find("skipped") is None:
            passed += 1
        else:
            skipped.append(name)
    return passed, sorted(skipped)
