"""The driver beside Liqo: Liqo's objects in the consumer, Liqo's rights in the provider.

Liqo itself does not run. What it would have written is there, in the kinds of its API,
and in the provider the consumer may do exactly what Liqo's roles let it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator

import yaml

from lab import api, control_plane
from tests.cluster import fabric

MANIFESTS = fabric.ROOT / "lab/manifests/liqo"
GROUP = "/apis/offloading.liqo.io/v1beta1"
SECRET = "kubeconfig-resourceslice-milan"
EVENTS = "/api/v1/namespaces/default/events"


def install_liqo(rome: control_plane.ControlPlane) -> None:
    """Give the consumer Liqo's kinds."""
    fabric.kubectl(rome, "apply", "-f", str(MANIFESTS / "definitions.yaml"))
    path = str(MANIFESTS / "definitions.yaml")
    fabric.kubectl(rome, "wait", "--for=condition=Established", "-f", path)


def remove_liqo(rome: control_plane.ControlPlane) -> None:
    """Take Liqo's kinds away, with all their objects."""
    fabric.kubectl(rome, "delete", "--ignore-not-found", "-f", str(MANIFESTS / "definitions.yaml"))


@contextlib.contextmanager
def installed(
    rome: control_plane.ControlPlane, milan: control_plane.ControlPlane
) -> Iterator[None]:
    """Leave the two clusters as Liqo does; nothing of it is there for later tests."""
    fabric.kubectl(rome, "apply", "-k", str(fabric.ROOT / "deploy/liqo"))
    fabric.kubectl(milan, "apply", "-f", str(MANIFESTS / "provider-rights.yaml"))
    fabric.kubectl(
        *(milan, "create", "clusterrolebinding", "liqo-tenant-rome", "--group=rome"),
        "--clusterrole=liqo-virtual-kubelet-remote-clusterwide",
    )
    install_liqo(rome)
    yield
    remove_liqo(rome)
    fabric.kubectl(milan, "delete", "clusterrolebinding", "liqo-tenant-rome")


def liqo_kubeconfig(milan: control_plane.ControlPlane) -> str:
    """Return a kubeconfig as Liqo's identity: group <consumer's id>, a certificate of its own."""
    return milan.kubeconfig_text("rome", ["rome"])


@dataclasses.dataclass
class Tenant:
    """What Liqo has of the peering with milan: a namespace of its own with a few objects."""

    server: api.Api
    namespace: str
    since: str
    """The version of the events when the test began."""

    @property
    def virtual_nodes(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/virtualnodes"

    @property
    def maps(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/namespacemaps"

    @property
    def secrets(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    async def peer(self, mapping: dict[str, str], kubeconfig: str, **spec: object) -> None:
        """Make what a peering makes."""
        await self.server.create(self.secrets, kubeconfig_secret(self.namespace, kubeconfig))
        await self.server.create(self.maps, namespace_map(mapping))
        await self.map(mapping)
        await self.server.create(self.virtual_nodes, virtual_node(**spec))

    async def map(self, mapping: dict[str, str], phase: str = "Accepted") -> None:
        """State which namespaces are offloaded, and how far that is."""
        current = {
            local: {"remoteNamespace": remote, "phase": phase} for local, remote in mapping.items()
        }
        found = await self.server.get(f"{self.maps}/milan")
        gone = dict.fromkeys(found.get("status", {}).get("currentMapping", {}))
        status = {"status": {"currentMapping": {**gone, **current}}}
        await self.server.merge(f"{self.maps}/milan/status", status)

    async def renew(self, kubeconfig: str) -> None:
        """Exchange the credential, as Liqo does before a certificate expires."""
        data = {"kubeconfig": base64.b64encode(kubeconfig.encode()).decode()}
        await self.server.merge(f"{self.secrets}/{SECRET}", {"data": data})

    async def said(self, reason: str, words: str, *, timeout_seconds: float = 40) -> str:
        """Wait until an Event on node milan has a reason and words; returns its message."""
        query = {
            "fieldSelector": f"involvedObject.name=milan,reason={reason}",
            "resourceVersion": self.since,
        }
        async with asyncio.timeout(timeout_seconds):
            async for seen in self.server.watch(EVENTS, query, silence_seconds=timeout_seconds):
                message = str(seen["object"].get("message", ""))
                if words in message:
                    return message
        raise AssertionError("the watch ended")


def kubeconfig_secret(namespace: str, kubeconfig: str) -> fabric.Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET,
            "namespace": namespace,
            "labels": {
                "liqo.io/remote-cluster-id": "milan",
                "liqo.io/identity-type": "ResourceSlice",
            },
        },
        "stringData": {"kubeconfig": kubeconfig},
    }


def virtual_node(**spec: object) -> fabric.Json:
    return {
        "apiVersion": "offloading.liqo.io/v1beta1",
        "kind": "VirtualNode",
        "metadata": {"name": "milan", "labels": {"liqo.io/remote-cluster-id": "milan"}},
        "spec": {
            "clusterID": "milan",
            "createNode": True,
            "kubeconfigSecretRef": {"name": SECRET},
            # Liqo's provider offers each class it has, its virtual one too.
            "storageClasses": [
                {"storageClassName": "liqo"},
                {"storageClassName": "hostpath", "default": True},
                {"storageClassName": "hostpath-wffc"},
            ],
            **spec,
        },
    }


def namespace_map(mapping: dict[str, str]) -> fabric.Json:
    return {
        "apiVersion": "offloading.liqo.io/v1beta1",
        "kind": "NamespaceMap",
        "metadata": {
            "name": "milan",
            "labels": {
                "liqo.io/remote-cluster-id": "milan",
                "liqo.io/remoteID": "milan",
                "liqo.io/replication": "true",
            },
        },
        "spec": {"desiredMapping": mapping},
    }


def resource_slice() -> fabric.Json:
    return {
        "apiVersion": "authentication.liqo.io/v1beta1",
        "kind": "ResourceSlice",
        "metadata": {
            "name": "milan",
            "labels": {
                "liqo.io/remote-cluster-id": "milan",
                "liqo.io/remoteID": "milan",
                "liqo.io/replication": "true",
            },
        },
    }


def lend(milan: control_plane.ControlPlane, namespace: str) -> None:
    """Make a mapped namespace in the provider as Liqo does, with its RoleBinding."""
    fabric.kubectl(milan, "create", "namespace", namespace)
    fabric.kubectl(
        *(milan, "-n", namespace, "create", "rolebinding", "liqo-tenant-rome"),
        *("--clusterrole=liqo-virtual-kubelet-remote", "--group=rome"),
    )


def grant_kubeconfig(rome: control_plane.ControlPlane, namespace: str) -> None:
    """Let the driver read the kubeconfig of one peering, with the commands of docs/liqo.md."""
    name = "csi-liqo-controller-kubeconfig"
    account = "--serviceaccount=csi-liqo:csi-liqo-controller"
    for command in (
        ("role", "--verb=list,watch", "--resource=secrets", f"--resource-name={SECRET}"),
        ("rolebinding", f"--role={name}", account),
    ):
        kind, *more = command
        fabric.kubectl(rome, "-n", namespace, "create", kind, name, *more)


def install_attaching(rome: control_plane.ControlPlane) -> None:
    """Have the installation that attaches know of Liqo, with the command of docs/liqo.md."""
    fabric.install_attaching(rome)
    role = "csi-liqo-beside-liqo"
    account = "--serviceaccount=csi-liqo:csi-liqo-controller-attach"
    command = ("create", "clusterrolebinding", f"{role}-attach", f"--clusterrole={role}", account)
    fabric.kubectl(rome, *command)


def remove_attaching(rome: control_plane.ControlPlane) -> None:
    """Take back what the installation that attaches may do beside Liqo."""
    fabric.kubectl(rome, "delete", "clusterrolebinding", "csi-liqo-beside-liqo-attach")


@dataclasses.dataclass
class Beside:
    """The running driver, and the tenant's objects; ``fabric`` has the rest."""

    fabric: fabric.Fabric
    tenant: Tenant


@contextlib.asynccontextmanager
async def running(
    planes: tuple[control_plane.ControlPlane, control_plane.ControlPlane],
    directory: pathlib.Path,
    namespace: str,
    *,
    source: str = "both",
    kubeconfig: str = "",
    granted: bool = True,
    peered: bool = True,
    attach: bool = False,
) -> AsyncIterator[Beside]:
    """Run controller and sidecar with what Liqo describes, for one test."""
    rome, milan = planes
    remote_namespace = f"{namespace}-rome"
    tenant_namespace = f"liqo-tenant-milan-{namespace[-20:].strip('-')}"
    for made in (namespace, tenant_namespace):
        fabric.kubectl(rome, "create", "namespace", made)
    lend(milan, remote_namespace)
    if granted:
        grant_kubeconfig(rome, tenant_namespace)
    processes = make_processes(rome, directory, source, attach=attach)
    controller, sidecar = processes
    async with (
        await api.Api.of(rome.kubeconfig) as consumer,
        await api.Api.of(milan.kubeconfig) as provider,
    ):
        since = (await consumer.get(EVENTS))["metadata"]["resourceVersion"]
        tenant = Tenant(consumer, tenant_namespace, since)
        parts = fabric.Fabric(
            *(rome, milan, consumer, provider, namespace, remote_namespace),
            *(directory, controller, sidecar, directory / "csi.sock"),
            fabric.ATTACHING_DRIVER if attach else "csi.liqo.io",
        )
        text = kubeconfig or liqo_kubeconfig(milan)
        if peered:
            await tenant.peer({namespace: remote_namespace}, text)
        for process in processes:
            await process.start()
        supervisor = asyncio.create_task(sidecar.keep_alive())
        try:
            yield Beside(parts, tenant)
            await empty(parts)
        except BaseException:
            for process in processes:
                sys.stderr.write(f"--- {process.log.name}\n{process.log.read_text()[-6000:]}\n")
            raise
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
            await sidecar.end()
            await controller.end(signal.SIGTERM)
            await clean_up(tenant)


def make_processes(
    rome: control_plane.ControlPlane, directory: pathlib.Path, source: str, *, attach: bool = False
) -> tuple[fabric.Process, fabric.Process]:
    """Return the controller and its sidecar, not started."""
    socket = directory / "csi.sock"
    kubeconfig = rome.kubeconfig_for(fabric.ATTACHING_USER if attach else fabric.CONTROLLER_USER)
    more = fabric.ATTACHING_ARGUMENTS if attach else ()
    command = fabric.controller_command(socket, kubeconfig, f"--remote-clusters={source}", *more)
    return (
        fabric.Process(command, directory / "controller.log"),
        fabric.Process(
            fabric.provisioner_command(socket, kubeconfig),
            directory / "csi-provisioner.log",
            NAMESPACE="csi-liqo",
        ),
    )


async def empty(driver: fabric.Fabric) -> None:
    """Have all volumes of the test deleted: later tests may not look where they are."""
    listed = await driver.consumer.get(fabric.VOLUMES)
    volumes = [
        item["metadata"]["name"]
        for item in listed["items"]
        if item["spec"].get("claimRef", {}).get("namespace") == driver.namespace
    ]
    for what in (("pods", "--grace-period=0", "--force"), ("pvc",)):
        fabric.kubectl(driver.rome, "-n", driver.namespace, "delete", "--all", *what)
    for name in volumes:
        await driver.volume_gone(name, timeout_seconds=60)


async def clean_up(tenant: Tenant) -> None:
    """Take away what describes milan, as the next test describes it anew."""
    override = {"metadata": {"labels": {"csi.liqo.io/fence": "open"}}}
    for path in (f"{tenant.virtual_nodes}/milan", f"{tenant.maps}/milan"):
        found = await tenant.server.find(path)
        if found is not None:
            await tenant.server.merge(path, override)
            await tenant.server.delete(path, uid=found["metadata"]["uid"])
    forget = {"metadata": {"annotations": {"csi.liqo.io/identity": None}}}
    await tenant.server.merge(f"{fabric.NODES}/milan", forget)


def bad_kubeconfig(milan: control_plane.ControlPlane) -> str:
    """Return a kubeconfig with a token that the provider refuses."""
    document = yaml.safe_load(liqo_kubeconfig(milan))
    document["users"][0]["user"] = {"token": "expired"}
    return yaml.safe_dump(document)
