"""One consumer and two providers behind proxies, and two replicas of the driver's controller."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from lab import api, binaries, control_plane, leaks, settings
from lab.faults import proxy
from tests import control_planes
from tests.cluster import fabric
from tests.soak import plan, record

NAMESPACE: Final = "soak"
REMOTE_NAMESPACE: Final = "rome-soak"

_MAPPINGS: Final[Mapping[str, fabric.Json]] = {
    "milan": {"explicit": {NAMESPACE: REMOTE_NAMESPACE}},
    "turin": {"template": "${consumer}-${namespace}"},
}

CALL_SECONDS: Final = 10
"""The sidecar's timeout. Outages here take seconds, and so must giving up and trying again."""
LONGEST_RETRY_SECONDS: Final = 5
GRACE_SECONDS: Final = 15
"""Longer than a lease and the sidecar's timeout together, as it has to be."""


class Replica:
    """One pod of the controller's Deployment: the driver, and a sidecar that is kept alive."""

    def __init__(
        self,
        name: str,
        directory: pathlib.Path,
        driver_kubeconfig: pathlib.Path,
        sidecar_kubeconfig: pathlib.Path,
    ) -> None:
        self.name = name
        self.socket = directory / f"{name}.sock"
        self.controller = fabric.Process(
            fabric.controller_command(
                self.socket, driver_kubeconfig, f"--orphan-grace-seconds={GRACE_SECONDS}"
            ),
            directory / f"{name}.log",
            POD_NAME=name,
        )
        # A pod has a host name of its own, by which the sidecar is elected.
        as_pod = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
        self.sidecar = fabric.Process(
            [
                *as_pod,
                *fabric.provisioner_command(self.socket, sidecar_kubeconfig, elects=True),
                f"--timeout={CALL_SECONDS}s",
                f"--retry-interval-max={LONGEST_RETRY_SECONDS}s",
            ],
            directory / f"{name}-provisioner.log",
            NAMESPACE="csi-liqo",
            POD_NAMESPACE="csi-liqo",
        )
        self._wanted = False
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start both."""
        await self.controller.start()
        await self.sidecar.start()
        self._wanted = True
        self._keeper = asyncio.create_task(self._keep_sidecar(), name=f"keep {self.name}")

    async def _keep_sidecar(self) -> None:
        """Start the sidecar again whenever it ends, as it does with every connection."""
        while True:
            await self.sidecar.wait()
            await asyncio.sleep(0.2)  # kubelet waits too; a crash loop must not spin
            if not self._wanted:
                return
            await self.sidecar.start()

    async def end(self, kind: signal.Signals = signal.SIGKILL) -> None:
        """End both."""
        self._wanted = False
        if not self.controller.ended:
            await self.controller.end(kind)
        if self._keeper is None:
            return
        while not self._keeper.done():  # it may be about to start another one
            await self.sidecar.end(kind)
            await asyncio.wait({self._keeper}, timeout=0.5)
        await self._keeper
        self._keeper = None


@dataclass(frozen=True, slots=True)
class World:
    """All that a soak acts on.

    `ways` are the proxies by which the driver reaches each API server, its own cluster's
    too. The users have ways of their own, which nothing befalls.
    """

    planes: Mapping[str, control_plane.ControlPlane]
    ways: Mapping[str, proxy.FaultProxy]
    replicas: Mapping[str, Replica]
    users: fabric.Fabric
    seen: record.Record

    async def snapshot(self) -> leaks.Snapshot:
        """Account for all that exists in the three clusters."""
        whole = leaks.Snapshot()
        for name, plane in self.planes.items():
            whole |= await leaks.snapshot_cluster(
                name, plane.kubeconfig, hostpath=plane.hostpath_directory
            )
        return whole

    async def listed(self) -> list[dict[str, str]]:
        """Return what the program lists as abandoned or begun."""
        return await fabric.orphans(self.users.rome, record.CONSUMER)


@contextlib.asynccontextmanager
async def running(directory: pathlib.Path) -> AsyncIterator[World]:
    """Have everything run, in sight of each other, and a record kept of it."""
    links = settings.DEFAULT_INSTANCE / "bin"
    await binaries.ensure(links, ["etcd", "kubernetes", "provisioner"])
    async with contextlib.AsyncExitStack() as stack:
        planes = await _planes(stack, directory, links)
        rome = planes[plan.OWN]
        await asyncio.to_thread(_prepare, planes)
        servers = {
            name: await stack.enter_async_context(await api.Api.of(plane.kubeconfig))
            for name, plane in planes.items()
        }
        rights = rome.kubeconfig_for(fabric.CONTROLLER_USER)
        roles = {plan.OWN: rights} | {
            name: planes[name].kubeconfig_for(fabric.CONSUMER_USER) for name in plan.PROVIDERS
        }
        ways = {
            name: await stack.enter_async_context(proxy.FaultProxy(role, directory / name / "way"))
            for name, role in roles.items()
        }
        await asyncio.to_thread(_introduce, rome, ways)
        replicas = {
            name: Replica(name, directory, ways[plan.OWN].kubeconfig, rights)
            for name in plan.REPLICAS
        }
        seen = record.Record(NAMESPACE, REMOTE_NAMESPACE)
        await stack.enter_async_context(record.kept(seen, servers))
        first = replicas[plan.REPLICAS[0]]
        users = fabric.Fabric(
            rome=rome,
            milan=planes["milan"],
            consumer=servers["rome"],
            provider=servers["milan"],
            namespace=NAMESPACE,
            remote_namespace=REMOTE_NAMESPACE,
            directory=directory,
            controller=first.controller,
            provisioner=first.sidecar,
            socket=first.socket,
            name=record.DRIVER,
        )
        try:
            for replica in replicas.values():
                await replica.start()
            await _in_sight(servers["rome"])
            yield World(planes, ways, replicas, users, seen)
        finally:
            await asyncio.gather(*(replica.end() for replica in replicas.values()))


async def _planes(
    stack: contextlib.AsyncExitStack, directory: pathlib.Path, links: pathlib.Path
) -> dict[str, control_plane.ControlPlane]:
    planes = {}
    for name in (plan.OWN, *plan.PROVIDERS):
        plane = control_plane.ControlPlane(
            *(name, directory / name, links), extra_arguments=fabric.CONTROL_PLANE_ARGUMENTS
        )
        stack.push_async_callback(_end, plane)
        planes[name] = plane
    async with asyncio.TaskGroup() as group:
        for plane in planes.values():
            group.create_task(plane.up())
    return planes


async def _end(plane: control_plane.ControlPlane) -> None:
    """End a control plane, also one whose API server is stopped."""
    plane.components[control_plane.API_SERVER].resume()
    await plane.down()


def _prepare(planes: Mapping[str, control_plane.ControlPlane]) -> None:
    rome = planes[plan.OWN]
    fabric.prepare_consumer(rome)
    fabric.kubectl(rome, "create", "namespace", NAMESPACE)
    for name in plan.PROVIDERS:
        fabric.prepare_provider(planes[name])
        fabric.grant_namespace(planes[name], REMOTE_NAMESPACE)


def _introduce(rome: control_plane.ControlPlane, ways: Mapping[str, proxy.FaultProxy]) -> None:
    parts: list[fabric.Json] = []
    for name in plan.PROVIDERS:
        secret = fabric.kubeconfig_secret(ways[name].kubeconfig.read_text())
        secret["metadata"]["name"] = name
        remote = fabric.remote_cluster({}, clusterID=name, kubeconfigSecretRef={"name": name})
        remote["metadata"]["name"] = name
        remote["spec"]["namespaceMapping"] = _MAPPINGS[name]
        parts += (secret, remote)
        fabric.make_virtual_node(rome, name)
    fabric.kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump_all(parts))


async def _in_sight(consumer: api.Api) -> None:
    """Wait until both providers are ready, and their nodes are entered."""

    def entered(item: dict[str, Any] | None) -> bool:
        drivers = (item or {}).get("spec", {}).get("drivers") or []
        return record.DRIVER in {entry["name"] for entry in drivers}

    for name in plan.PROVIDERS:
        await control_planes.wait_until(
            *(consumer, fabric.REMOTE_CLUSTERS, name, fabric.is_ready), timeout_seconds=60
        )
        await control_planes.wait_until(consumer, fabric.CSI_NODES, name, entered)


def show_logs(world: World) -> None:
    """Print the end of what each program said, for who looks into a failure."""
    for replica in world.replicas.values():
        for process in (replica.controller, replica.sidecar):
            text = process.log.read_text(errors="replace")
            sys.stderr.write(f"--- {process.log}\n{text[-3000:]}\n")
