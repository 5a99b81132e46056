"""A consumer and a provider without kubelets, with the driver between them as it is deployed.

Provisioning needs an API server, the controller manager, the scheduler and sidecars;
pods are scheduled and never run. So nothing but what is measured takes the processors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import yaml

from bench import manifests, process_facts, programs
from lab import api, control_plane, instance, mirror, processes, settings

Report = Callable[[str], None]
Json = dict[str, Any]

CLAIMS: Final = f"/api/v1/namespaces/{manifests.NAMESPACE}/persistentvolumeclaims"
REMOTE_CLAIMS: Final = f"/api/v1/namespaces/{manifests.REMOTE_NAMESPACE}/persistentvolumeclaims"
PODS: Final = f"/api/v1/namespaces/{manifests.NAMESPACE}/pods"
VOLUMES: Final = "/api/v1/persistentvolumes"
NODES: Final = "/api/v1/nodes"
NOTES: Final = "/api/v1/namespaces/csi-liqo-storage/configmaps"
REMOTE_CLUSTERS: Final = "/apis/csi.liqo.io/v1alpha1/remoteclusters"

CONSUMER_USER: Final = "system:serviceaccount:csi-liqo-consumers:rome"
_PROVIDER: Final = settings.REPOSITORY / "deploy" / "provider"
NAMESPACED_GRANTS: Final = ("claims", "events")
GRANTS: Final = ("offered-classes", "volumes", "capacity", "identity")

# Nodes whose kubelets do not exist must not be found dead.
_ARGUMENTS: Final = {control_plane.CONTROLLERS: ["--node-monitor-grace-period=24h"]}
READY_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Fabric:
    """Two running clusters with the driver, a driver that does nothing, and the loop driver."""

    rome: control_plane.ControlPlane
    milan: control_plane.ControlPlane
    consumer: api.Api
    provider: api.Api
    programs: dict[str, processes.Daemon]

    def processor_seconds(self) -> dict[str, float]:
        """Return what each program has used of the processors so far, of both clusters."""
        used: dict[str, float] = {}
        for where, daemons in (
            ("", self.programs),
            (f" of {self.rome.name}", self.rome.components),
            (f" of {self.milan.name}", self.milan.components),
        ):
            for name, daemon in daemons.items():
                if daemon.identity is not None:
                    used[name + where] = process_facts.processor_seconds(daemon.identity.pid)
        return used


async def kubectl(
    plane: control_plane.ControlPlane,
    binaries: pathlib.Path,
    *arguments: str,
    objects: Sequence[Json] = (),
) -> str:
    """Run kubectl as the administrator of a cluster, with objects to apply."""
    command = [str(binaries / "kubectl"), f"--kubeconfig={plane.kubeconfig}", *arguments]
    if objects:
        command += ["apply", "--server-side", "--filename=-"]
    return await processes.run(*command, stdin=yaml.safe_dump_all(objects) if objects else None)


@contextlib.asynccontextmanager
async def running(owner: instance.Instance, report: Report) -> AsyncIterator[Fabric]:
    """Have both clusters and every program run for the time of the block."""
    async with contextlib.AsyncExitStack() as stack:
        report("starting two control planes")
        rome, milan = [
            await stack.enter_async_context(started(owner, name))
            for name in (manifests.CONSUMER, manifests.PROVIDER)
        ]
        report("preparing the clusters")
        await prepare_provider(milan, owner.binaries, (manifests.REMOTE_NAMESPACE,))
        await prepare_consumer(rome, owner.binaries)
        mapping = {manifests.NAMESPACE: manifests.REMOTE_NAMESPACE}
        await introduce(rome, milan, owner.binaries, mapping)
        report("starting the drivers")
        directory = owner.directory / "programs"
        beside = await stack.enter_async_context(drivers(rome, owner.binaries, directory))
        consumer = await stack.enter_async_context(await api.Api.of(rome.kubeconfig))
        provider = await stack.enter_async_context(await api.Api.of(milan.kubeconfig))
        await mirror.wait_until(
            consumer, REMOTE_CLUSTERS, milan.name, is_ready, timeout_seconds=READY_SECONDS
        )
        await mirror.wait_until(
            consumer, _accounts(), "default", _is_there, timeout_seconds=READY_SECONDS
        )
        yield Fabric(rome, milan, consumer, provider, beside)


@contextlib.asynccontextmanager
async def started(
    owner: instance.Instance, name: str, *, without: frozenset[str] = frozenset()
) -> AsyncIterator[control_plane.ControlPlane]:
    """Run a control plane in a fresh folder of the instance."""
    async with control_plane.ControlPlane.start(
        name,
        owner.cluster_directory(name),
        owner.binaries,
        extra_arguments=_ARGUMENTS,
        without=without,
    ) as plane:
        yield plane


async def prepare_consumer(rome: control_plane.ControlPlane, binaries: pathlib.Path) -> None:
    """Install the driver's manifests, classes over each real one, and nodes with every driver."""
    deploy = str(settings.REPOSITORY / "deploy")
    await kubectl(rome, binaries, "apply", "--server-side", "-k", deploy)
    crd = "crd/remoteclusters.csi.liqo.io"
    await kubectl(rome, binaries, "wait", "--for=condition=Established", crd)
    names = ("rome-1", "rome-2")
    await kubectl(
        rome,
        binaries,
        objects=[
            manifests.namespace(manifests.NAMESPACE),
            *(part for name in names for part in manifests.real_node(name)),
            manifests.virtual_node(manifests.PROVIDER),
            manifests.csi_driver(manifests.NOOP),
            manifests.csi_driver(manifests.LOOP),
            *classes(),
        ],
    )
    async with await api.Api.of(rome.kubeconfig) as server:
        for name in (*names, manifests.PROVIDER):
            await server.merge(f"{NODES}/{name}/status", manifests.ready_status())


def classes() -> list[Json]:
    """Return the consumer's classes: real ones, the one of nothing, and ours over the real ones."""
    real = {
        "hostpath": manifests.HOST_PATH,
        "loop": manifests.LOOP,
        "noop": manifests.NOOP,
        "static": manifests.STATIC,
    }
    ours = {
        **{f"virtual-{name}": {"localClass": name} for name in ("hostpath", "loop", "static")},
        **{f"remote-{mode}": {"remoteClass": f"hostpath-{mode}"} for mode in ("now", "waits")},
    }
    return [
        *(manifests.storage_class(name, provisioner) for name, provisioner in real.items()),
        *(
            manifests.storage_class(name, manifests.DRIVER, parameters)
            for name, parameters in ours.items()
        ),
    ]


async def prepare_provider(
    milan: control_plane.ControlPlane, binaries: pathlib.Path, mapped: Sequence[str]
) -> None:
    """Make and offer real classes, and grant the consumer what deploy/provider has."""
    await kubectl(milan, binaries, "apply", "--server-side", "-k", str(_PROVIDER))
    offered = [
        manifests.storage_class(
            f"hostpath-{mode}", manifests.HOST_PATH, waits=mode == "waits", offered=True
        )
        for mode in ("now", "waits")
    ]
    granted = [binding(grant) for grant in GRANTS]
    for name in mapped:
        granted += [manifests.namespace(name), *(binding(g, name) for g in NAMESPACED_GRANTS)]
    await kubectl(milan, binaries, objects=[*offered, *granted])


def binding(grant: str, namespace: str = "") -> Json:
    """Return what binds the consumer to a role of deploy/provider, in one namespace or all."""
    role = f"csi-liqo-consumer-{grant}"
    where = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": role, **where},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": CONSUMER_USER}
        ],
    }


async def introduce(
    rome: control_plane.ControlPlane,
    provider: control_plane.ControlPlane,
    binaries: pathlib.Path,
    mapping: dict[str, str],
) -> None:
    """Tell the consumer of a provider."""
    text = provider.kubeconfig_text(
        CONSUMER_USER, ["system:serviceaccounts", programs.COUNTED_GROUP]
    )
    await kubectl(
        rome,
        binaries,
        objects=[
            manifests.kubeconfig_secret(provider.name, text),
            manifests.remote_cluster(provider.name, mapping),
        ],
    )


@contextlib.asynccontextmanager
async def drivers(
    rome: control_plane.ControlPlane, binaries: pathlib.Path, directory: pathlib.Path
) -> AsyncIterator[dict[str, processes.Daemon]]:
    """Run the three drivers of the consumer and their sidecars; yields all of them by name."""
    sockets = {name: directory / f"{name}.sock" for name in ("csi-liqo", "noop", "loop")}
    noop = [
        *(str((binaries / "noopdriver").resolve()), f"--socket={sockets['noop']}"),
        *(f"--driver-name={manifests.NOOP}", f"--node-name={manifests.NODE}"),
    ]
    loop = [
        *(str((binaries / "loopdriver").resolve()), f"--endpoint=unix://{sockets['loop']}"),
        *(f"--driver-name={manifests.LOOP}", f"--node-name={manifests.NODE}"),
        *(f"--state-dir={directory / 'loop'}", f"--kubelet-dir={directory}", "--no-registration"),
    ]
    served = {
        "csi-liqo": programs.controller(directory, rome, sockets["csi-liqo"]),
        "noop": programs.daemon(directory, "noopdriver", noop),
        "loop": programs.daemon(directory, "loopdriver", loop),
    }
    user = rome.kubeconfig_for(f"{programs.CONTROLLER_USER}", programs.SERVICE_ACCOUNT)
    sidecars = {
        name: programs.provisioner(directory, binaries, name, socket, user)
        for name, socket in sockets.items()
    }
    begun: list[processes.Daemon] = []
    try:
        for name, program in served.items():
            program.start()
            begun.append(program)
            await programs.wait_until_ready(program, sockets[name])
            sidecars[name].start()
            begun.append(sidecars[name])
        yield {program.name: program for program in begun}
    finally:
        for program in reversed(begun):
            await program.stop()


def _is_there(found: Json | None) -> bool:
    return found is not None


def is_ready(remote: Json | None) -> bool:
    """Tell whether a RemoteCluster says that it is ready."""
    conditions = (remote or {}).get("status", {}).get("conditions", [])
    return ("Ready", "True") in {(item["type"], item["status"]) for item in conditions}


def _accounts() -> str:
    return f"/api/v1/namespaces/{manifests.NAMESPACE}/serviceaccounts"
