"""The two replicas of deploy/attach: the csi-attacher that leads ends, and the other takes over.

It gives no lease back, so being told to end costs as much as being killed. What leads besides
is the same as in deploy/base, and is tested with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from lab import binaries, control_plane
from tests import control_planes
from tests.cluster import fabric, real_drivers

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/csi-liqo/leases"
LEASE: Final = "external-attacher-leader-csi-liqo-io-attach"
REAL: Final = "attach.loop.example.com"
TAKEOVER_SECONDS: Final = 5.0
"""What losing the attacher that leads may cost, however it is lost."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    asyncio.run(binaries.ensure(fabric.BINARIES, real_drivers.PROGRAMS))


def attacher_command(socket: Path, kubeconfig: Path) -> list[str]:
    """Return the sidecar's command line, with the arguments that deploy/attach gives it."""
    (part,) = yaml.safe_load_all((fabric.ROOT / "deploy/attach/controller.yaml").read_text())
    containers = part["spec"]["template"]["spec"]["containers"]
    deployed = next(c["args"] for c in containers if c["name"] == "csi-attacher")
    own = ("--csi-address", "--http-endpoint")
    return [
        str(fabric.BINARIES / "csi-attacher"),
        *(argument for argument in deployed if not argument.startswith(own)),
        f"--csi-address={socket}",
        f"--kubeconfig={kubeconfig}",
    ]


@dataclasses.dataclass
class Replica:
    """One pod of the Deployment, as far as it attaches: the driver and its csi-attacher."""

    name: str
    controller: fabric.Process
    attacher: fabric.Process

    async def end(self, kind: signal.Signals) -> None:
        """Do to both programs what kubelet does when the pod ends."""
        await asyncio.gather(self.controller.end(kind), self.attacher.end(kind))

    async def competes(self) -> None:
        """Wait until the attacher waits for its lease, or holds it."""
        async with asyncio.timeout(30):
            while b"Attempting to acquire" not in self.attacher.log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def forge_attacher(driver: fabric.Fabric, socket: Path, name: str) -> fabric.Process:
    rights = driver.rome.kubeconfig_for(fabric.ATTACHING_USER)
    as_pod = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    return fabric.Process(
        [*as_pod, *attacher_command(socket, rights)],
        driver.directory / f"{name}-attacher.log",
        NAMESPACE="csi-liqo",
        POD_NAMESPACE="csi-liqo",
    )


@contextlib.asynccontextmanager
async def two_replicas(driver: fabric.Fabric) -> AsyncIterator[tuple[Replica, Replica]]:
    """Have a second replica beside the driver that runs; the first one's attacher leads."""
    rights = driver.rome.kubeconfig_for(fabric.ATTACHING_USER)
    socket = driver.directory / "second.sock"
    command = fabric.controller_command(socket, rights, *fabric.ATTACHING_ARGUMENTS)
    log = driver.directory / "second.log"
    replicas = (
        Replica("first", driver.controller, forge_attacher(driver, driver.socket, "first")),
        Replica(
            "second",
            fabric.Process(command, log, POD_NAME="second"),
            forge_attacher(driver, socket, "second"),
        ),
    )
    first, second = replicas
    try:
        await first.attacher.start()
        await led_by(driver, first)
        await second.controller.start()
        await second.attacher.start()
        await second.competes()
        yield replicas
    finally:
        for process in (first.attacher, second.attacher, second.controller):
            if process.log.exists():  # shown by pytest when a test fails
                print(process.log, process.log.read_text()[-3000:], sep="\n")
            if not process.ended:
                await process.end()


async def led_by(driver: fabric.Fabric, replica: Replica) -> None:
    await control_planes.wait_until(
        driver.consumer,
        LEASES,
        LEASE,
        lambda lease: (lease or {}).get("spec", {}).get("holderIdentity") == replica.name,
    )


def is_attached(item: fabric.Json | None) -> bool:
    return bool((item or {}).get("status", {}).get("attached"))


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told-to-end"])
async def test_attachments_go_on_soon_after_the_replica_that_attaches_ended(
    prepared: Planes, tmp_path: Path, namespace: str, kind: signal.Signals
) -> None:
    async with fabric.running(*prepared, tmp_path, namespace, attach=True) as driver:
        before = await driver.snapshot()
        async with (
            real_drivers.running(driver, REAL, attach=True) as real,
            real_drivers.virtual_class(driver, real) as virtual,
        ):
            await driver.claim_on("data", real_drivers.NODE, storage_class=virtual)
            _, volume = await driver.bound("data")
            async with two_replicas(driver) as (first, second):
                ended = time.monotonic()
                ending = asyncio.create_task(first.end(kind))
                await real_drivers.attach_outer(driver, volume)
                await led_by(driver, second)
                took = time.monotonic() - ended
                await control_planes.wait_until(
                    driver.consumer, real_drivers.ATTACHMENTS, "outer", is_attached
                )
                print(
                    f"{kind.name}: the other attacher leads after {took:.2f} s, attached after "
                    f"{time.monotonic() - ended:.2f} s"
                )
                assert took < TAKEOVER_SECONDS
                (inner,) = await real_drivers.inner_attachments(driver)
                assert is_attached(inner)
                await ending

                await real_drivers.detach_outer(driver)
                await control_planes.wait_until_gone(
                    driver.consumer, real_drivers.ATTACHMENTS, "outer"
                )
                assert await real_drivers.inner_attachments(driver) == []
                await driver.controller.start()  # beside its provisioner, which is alone
                await driver.drop("data")
                # The attacher's finalizer is on the volume, too.
                await driver.volume_gone(volume["metadata"]["name"])
        assert await driver.settled(before) == []
