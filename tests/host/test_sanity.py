"""csi-sanity's node tests against the node plugin over a real driver, without Kubernetes.

It needs a controller that makes volumes. Here that is the real driver's own, whose
answer becomes the source of a virtual volume as the driver's controller would write it;
the whole driver has its run of csi-sanity elsewhere.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from csi_liqo.model import source
from csi_liqo.rpc import identity
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from tests.host import node_box, real_driver
from tests.host.real_driver import LoopDriver
from tests.sanity import front, program

RPC = csi_pb2.ControllerServiceCapability.RPC
SERVICE = csi_pb2.PluginCapability.Service
SKIPPED = pathlib.Path(__file__).parent / "skipped.txt"


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


@contextlib.asynccontextmanager
async def controlling(socket: pathlib.Path, real: LoopDriver) -> AsyncIterator[None]:
    """Serve the controller that translates, and say that there is one."""
    who = identity.IdentityServicer(
        name="csi.liqo.io",
        version="1",
        is_ready=lambda: True,
        capabilities=[SERVICE.CONTROLLER_SERVICE, SERVICE.VOLUME_ACCESSIBILITY_CONSTRAINTS],
    )
    async with grpc.aio.insecure_channel(f"unix:{real.socket}") as channel:
        server = grpc.aio.server()
        csi_pb2_grpc.add_IdentityServicer_to_server(who, server)
        csi_pb2_grpc.add_ControllerServicer_to_server(Translating(channel), server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("access", ["mount", "block"])
async def test_csi_sanitys_node_tests_pass_over_a_real_driver(
    box: node_box.Box, real: LoopDriver, access: str
) -> None:
    controller, both = box.root / "controller.sock", box.root / "both.sock"
    with real.serving("--max-volumes=20"), box.serving(*limited(box)):
        async with (
            controlling(controller, real),
            front.serving(both, controller=controller, node=box.driver / "csi.sock"),
        ):
            passed, skipped = await program.run(
                box.entering(box.host_pid),
                both,
                box.kubelet,
                f"--csi.testvolumesize={320 << 20}",
                f"--csi.testvolumeexpandsize={640 << 20}",
                f"--csi.testvolumeaccesstype={access}",
                "--ginkgo.focus=Node Service",
            )
    assert len([name for name in passed if name.startswith("Node Service ")]) == 24
    assert skipped_of(skipped) == program.listed(str(SKIPPED))
    assert not box.mounts()
    assert not real.loops()
    assert box.journal == []


def limited(box: node_box.Box) -> list[str]:
    """Have the real driver's limit counted, as with the controller's ConfigMap."""
    file = box.root / "drivers.json"
    file.write_text(f'["{real_driver.NAME}"]')
    return ["--real-drivers-file", str(file)]


def skipped_of(skipped: list[str]) -> list[str]:
    """Return the node tests among those left out; others are not asked for here."""
    return [name for name in skipped if name.startswith("Node Service ")]
