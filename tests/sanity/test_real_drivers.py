"""csi-sanity, the real program, against the driver over a real CSI driver.

All that stands below the driver in a cluster runs here: an API server, the controllers
of Kubernetes, the real driver with its csi-provisioner and, where it attaches, its
csi-attacher, and a node with both node plugins. Each run is one kind of volume.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import yaml

from lab import api, control_plane
from tests.cluster import fabric
from tests.host import node_box, real_driver
from tests.sanity import front, program

pytestmark = pytest.mark.timeout(600)

MEBIBYTE = 1 << 20
NODE = "rome-1"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of volume; a raw block one has no filesystem.

    Not ext4: growing it while it is mounted takes CAP_SYS_RESOURCE, which is not everywhere.
    """

    attach: bool
    fs_type: str = ""

    @property
    def driver(self) -> str:
        return fabric.ATTACHING_DRIVER if self.attach else "csi.liqo.io"


@pytest.fixture
def box() -> Iterator[node_box.Box]:
    made = node_box.Box()
    yield made
    made.close()


@contextlib.contextmanager
def introduced(rome: control_plane.ControlPlane, kind: Kind) -> Iterator[str]:
    """Write what kubelet and an administrator would write of the real driver; yield its class."""
    name = real_driver.NAME
    objects = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": name},
            "spec": {"attachRequired": kind.attach, "fsGroupPolicy": "File"},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "loop"},
            "provisioner": name,
            "parameters": {"csi.storage.k8s.io/fstype": kind.fs_type or "ext4"},
            # csi-sanity names no node.
            "volumeBindingMode": "Immediate",
        },
    ]
    known = json.loads(fabric.kubectl(rome, "get", "csinode", NODE, "--output=json"))
    before = known["spec"]["drivers"]
    entry = {"name": name, "nodeID": NODE, "topologyKeys": [f"{name}/node"]}
    written = yaml.safe_dump_all(objects)
    fabric.kubectl(rome, "apply", "-f", "-", text=written)
    fabric.kubectl(rome, "label", "node", NODE, f"{name}/node={NODE}")
    _set_drivers(rome, [*before, entry])
    try:
        yield "loop"
    finally:
        _set_drivers(rome, before)
        fabric.kubectl(rome, "label", "node", NODE, f"{name}/node-")
        fabric.kubectl(rome, "delete", "-f", "-", text=written)


def _set_drivers(rome: control_plane.ControlPlane, drivers: list[fabric.Json]) -> None:
    patch = json.dumps({"spec": {"drivers": drivers}})
    fabric.kubectl(rome, "patch", "csinode", NODE, "--type=merge", f"--patch={patch}")


@contextlib.asynccontextmanager
async def real_storage(
    rome: control_plane.ControlPlane, box: node_box.Box, kind: Kind
) -> AsyncIterator[real_driver.LoopDriver]:
    """Run the real driver on the node, and its sidecars."""
    real = real_driver.LoopDriver(box)
    sidecar = [f"--csi-address={real.socket}", f"--kubeconfig={rome.kubeconfig}"]
    commands = {
        "csi-provisioner": [*sidecar, "--strict-topology", "--kube-api-qps=200"],
        **({"csi-attacher": [*sidecar, "--kube-api-qps=200"]} if kind.attach else {}),
    }
    with real.serving(*(["--attach-required"] if kind.attach else [])):
        async with contextlib.AsyncExitStack() as stack:
            for name, arguments in commands.items():
                command = [str(fabric.BINARIES / name), *arguments]
                process = fabric.Process(command, box.root / f"{name}.log")
                await process.start()
                stack.push_async_callback(process.end)
            yield real


@contextlib.asynccontextmanager
async def whole_driver(
    rome: control_plane.ControlPlane, box: node_box.Box, kind: Kind
) -> AsyncIterator[pathlib.Path]:
    """Run both roles of the driver; yield the controller's socket and serve the node's."""
    socket = box.root / "controller.sock"
    account = fabric.ATTACHING_USER if kind.attach else fabric.CONTROLLER_USER
    more = fabric.ATTACHING_ARGUMENTS if kind.attach else ()
    controller = fabric.Process(
        fabric.controller_command(socket, rome.kubeconfig_for(account), *more),
        box.root / "controller.log",
    )
    registered = box.kubelet / "plugins_registry" / f"{kind.driver}-reg.sock"
    command = [sys.executable, "-m", "csi_liqo.cli", "node", *box.arguments()]
    await controller.start()
    node = box.start(*command, f"--driver-name={kind.driver}")
    try:
        await asyncio.to_thread(node_box.wait_until, registered, node)
        async with asyncio.timeout(30):
            while not socket.exists():
                assert not controller.ended, controller.log.read_text()
                await asyncio.sleep(0.05)
        await front.wait_until_ready(socket)
        yield socket
    except BaseException:
        sys.stderr.write(controller.log.read_text()[-20000:])
        raise
    finally:
        node.send_signal(signal.SIGTERM)
        await asyncio.to_thread(node.wait, 30)
        await controller.end(signal.SIGTERM)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Kind(attach=False, fs_type="xfs"), id="xfs"),
        pytest.param(Kind(attach=False), id="block"),
        pytest.param(Kind(attach=True, fs_type="xfs"), id="xfs-attached"),
        pytest.param(Kind(attach=True), id="block-attached"),
    ],
)
async def test_csi_sanity_passes_over_a_real_driver(
    rome: control_plane.ControlPlane, box: node_box.Box, kind: Kind
) -> None:
    if kind.attach:
        fabric.kubectl(rome, "apply", "-k", str(fabric.ROOT / "deploy/attach"))
    before = volumes(rome)
    socket = box.root / "front.sock"
    parameters = box.root / "parameters.yaml"
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(await api.Api.of(rome.kubeconfig))
        parameters.write_text(
            yaml.safe_dump({"localClass": stack.enter_context(introduced(rome, kind))})
        )
        real = await stack.enter_async_context(real_storage(rome, box, kind))
        controller = await stack.enter_async_context(whole_driver(rome, box, kind))
        kubernetes = front.Kubernetes(server, kind.driver) if kind.attach else None
        node = box.kubelet / "plugins" / kind.driver / "csi.sock"
        await stack.enter_async_context(
            front.serving(socket, controller=controller, node=node, kubernetes=kubernetes)
        )
        passed, skipped = await program.run(
            box.entering(box.host_pid),
            socket,
            box.kubelet,
            f"--csi.testvolumeparameters={parameters}",
            f"--csi.testvolumeaccesstype={'mount' if kind.fs_type else 'block'}",
            f"--csi.testvolumesize={320 * MEBIBYTE}",
            f"--csi.testvolumeexpandsize={640 * MEBIBYTE}",
        )
        mode = "true" if kind.attach else "false"
        assert skipped == program.listed("skipped.txt", f"skipped-attach-{mode}.txt")
        assert len([name for name in passed if name.startswith("Node Service")]) >= 24
        assert not box.mounts()
        assert not real.loops()
    assert not list((box.kubelet / "plugins" / kind.driver / "journal").iterdir())
    assert volumes(rome) == before


def volumes(rome: control_plane.ControlPlane) -> str:
    """Name every claim, volume and attachment of the cluster."""
    kinds = "persistentvolumeclaims,persistentvolumes,volumeattachments"
    return fabric.kubectl(rome, "get", kinds, "--all-namespaces", "--output=name")
