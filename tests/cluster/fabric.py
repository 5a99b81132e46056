"""Two real clusters without kubelets, and the driver between them as it is deployed.

The manifests of deploy/ are applied to the consumer, and controller and sidecar run
under the rights these give, as processes that can be killed. Pods are scheduled and
never run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import yaml

from lab import api, control_plane, leaks, settings, templates
from tests import control_planes

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
PROGRAM: Final = (sys.executable, "-m", "csi_liqo.cli")
BINARIES: Final = settings.DEFAULT_INSTANCE / "bin"

CLAIMS: Final = "/api/v1/namespaces/{}/persistentvolumeclaims"
VOLUMES: Final = "/api/v1/persistentvolumes"
NODES: Final = "/api/v1/nodes"
CSI_NODES: Final = "/apis/storage.k8s.io/v1/csinodes"
CLASSES: Final = "/apis/storage.k8s.io/v1/storageclasses"
REMOTE_CLUSTERS: Final = "/apis/csi.liqo.io/v1alpha1/remoteclusters"
TWINS: Final = "csi-liqo-storage"
ATTEMPTS: Final = f"/api/v1/namespaces/{TWINS}/configmaps/csi-liqo-attempts"
SECRETS: Final = "/api/v1/namespaces/csi-liqo/secrets"

CLUSTER_KEY: Final = "topology.csi.liqo.io/cluster"
NODE_KEY: Final = "topology.csi.liqo.io/node"

CONTROLLER_USER: Final = "system:serviceaccount:csi-liqo:csi-liqo-controller"
ATTACHING_USER: Final = f"{CONTROLLER_USER}-attach"
ATTACHING_DRIVER: Final = "csi.liqo.io-attach"
ATTACHING_ARGUMENTS: Final = (
    "--attach",
    f"--driver-name={ATTACHING_DRIVER}",
    "--real-drivers-config-map=csi-liqo-real-drivers-attach",
    "--homes-config-map=csi-liqo-homes-attach",
    "--service-account=csi-liqo-controller-attach",
)
"""What deploy/attach tells the controller beyond the base; the last by its environment."""

CONSUMER_USERS: Final = "system:serviceaccount:csi-liqo-consumers"
CONSUMER_USER: Final = f"{CONSUMER_USERS}:rome"

# Nodes whose kubelets do not exist must not be found dead.
CONTROL_PLANE_ARGUMENTS: Final = {
    control_plane.CONTROLLERS: ["--node-monitor-grace-period=24h", "--pvclaimbinder-sync-period=2s"]
}

Json = dict[str, Any]

OPENED: Final[Json] = {"metadata": {"labels": {"csi.liqo.io/fence": "open"}}}
"""The patch that lets others than the driver change and delete a twin."""


def consumer_user(consumer: str) -> str:
    """Return who a consumer is in a provider."""
    return f"{CONSUMER_USERS}:{consumer}"


def claims_in(namespace: str) -> str:
    """Return the collection of a namespace's claims."""
    return CLAIMS.format(namespace)


def kubectl(plane: control_plane.ControlPlane, *arguments: str, text: str = "") -> str:
    """Run kubectl as the administrator of a cluster and return what it prints."""
    command = [str(BINARIES / "kubectl"), f"--kubeconfig={plane.kubeconfig}", *arguments]
    return subprocess.run(command, input=text, check=True, text=True, stdout=subprocess.PIPE).stdout


def prepare_consumer(rome: control_plane.ControlPlane, cluster_id: str = "rome") -> None:
    """Install the driver's manifests, real classes and two nodes with the driver on them."""
    nodes = [f"{cluster_id}-1", f"{cluster_id}-2"]
    kubectl(rome, "apply", "-k", str(ROOT / "deploy"))
    kubectl(rome, "wait", "--for=condition=Established", "crd/remoteclusters.csi.liqo.io")
    kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump_all([
        *real_classes(),
        *(part for name in nodes for part in node(name, cluster_id)),
        virtual_class("csi-liqo-static", {"localClass": "static"}),
    ]))  # fmt: skip
    for name in nodes:
        _make_ready(rome, name)
    make_virtual_node(rome, "milan")


def make_virtual_node(rome: control_plane.ControlPlane, cluster: str) -> None:
    """Make the node that stands for a provider, as Liqo does; it knows nothing of storage."""
    labels = {"liqo.io/type": "virtual-node", "liqo.io/remote-cluster-id": cluster}
    kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump(templates.node(cluster, labels)))
    _make_ready(rome, cluster)


def _make_ready(rome: control_plane.ControlPlane, name: str) -> None:
    room = {"cpu": "64", "memory": "64Gi", "pods": "900"}
    ready = [{"type": "Ready", "status": "True"}]
    patch = json.dumps({"status": {"conditions": ready, "allocatable": room, "capacity": room}})
    kubectl(rome, "patch", "node", name, "--subresource=status", f"--patch={patch}")


def install_attaching(rome: control_plane.ControlPlane) -> None:
    """Install the other mode of the driver, and enter it for the real nodes as kubelet would."""
    kubectl(rome, "apply", "-k", str(ROOT / "deploy/attach"))
    for node_name in ("rome-1", "rome-2"):
        known = json.loads(kubectl(rome, "get", "csinode", node_name, "--output=json"))
        drivers = [entry for entry in known["spec"]["drivers"] if entry["name"] != ATTACHING_DRIVER]
        keys = [CLUSTER_KEY, NODE_KEY]
        entry = {"name": ATTACHING_DRIVER, "nodeID": node_name, "topologyKeys": keys}
        drivers.append(entry)
        patch = json.dumps({"spec": {"drivers": drivers}})
        kubectl(rome, "patch", "csinode", node_name, "--type=merge", f"--patch={patch}")


def prepare_provider(milan: control_plane.ControlPlane) -> None:
    """Make real classes, offer them, and grant a consumer what deploy/provider has."""
    kubectl(milan, "apply", "-k", str(ROOT / "deploy/provider"))
    classes = list(real_classes())
    for real in classes[:3]:
        real["metadata"]["labels"] = {"csi.liqo.io/offered": "true"}
    kubectl(milan, "apply", "-f", "-", text=yaml.safe_dump_all(classes))
    grant_cluster(milan)


def grant_cluster(milan: control_plane.ControlPlane, consumer: str = "rome") -> None:
    """Grant a consumer what is granted in a whole provider."""
    for grant in ("offered-classes", "volumes", "capacity", "identity"):
        role = f"csi-liqo-consumer-{grant}"
        to = (f"--clusterrole={role}", f"--user={consumer_user(consumer)}")
        kubectl(milan, "create", "clusterrolebinding", f"{role}-{consumer}", *to)


def grant_namespace(
    milan: control_plane.ControlPlane, namespace: str, consumer: str = "rome"
) -> None:
    """Make a mapped namespace in the provider, with the consumer's rights in it."""
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    kubectl(milan, "apply", "-f", "-", text=yaml.safe_dump(made))
    for grant in ("claims", "events"):
        role = f"csi-liqo-consumer-{grant}"
        to = (f"--clusterrole={role}", f"--user={consumer_user(consumer)}")
        kubectl(milan, "-n", namespace, "create", "rolebinding", f"{role}-{consumer}", *to)


def real_classes() -> Iterable[Json]:
    """Return real classes: two dynamic ones, one that nobody serves, one by hand."""
    for name, provisioner, mode in (
        ("hostpath", "kubernetes.io/host-path", "Immediate"),
        ("hostpath-wffc", "kubernetes.io/host-path", "WaitForFirstConsumer"),
        ("nobody", "example.com/nobody", "Immediate"),
        ("static", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
    ):
        default = "true" if name == "hostpath" else "false"
        yield {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": default},
            },
            "provisioner": provisioner,
            "volumeBindingMode": mode,
        }


def virtual_class(name: str, parameters: dict[str, str], **more: str) -> Json:
    """Return a class of the driver."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "csi.liqo.io",
        "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": parameters,
        **more,
    }


def node(name: str, cluster: str) -> Iterable[Json]:
    """Return a real node as kubelet would register it with the driver."""
    labels = {CLUSTER_KEY: cluster, NODE_KEY: name}
    yield templates.node(name, labels)
    driver = {"name": "csi.liqo.io", "nodeID": name, "topologyKeys": [CLUSTER_KEY, NODE_KEY]}
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": name},
        "spec": {"drivers": [driver]},
    }


def claim(name: str, *, storage_class: str = "csi-liqo", **spec: Any) -> Json:
    """Return a virtual claim of 64 MiB."""
    return templates.claim(name, storage_class, **spec)


class Process:
    """A program under test, with a log, that can be killed and started again."""

    def __init__(self, arguments: Sequence[str], log: pathlib.Path, **environment: str) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; its output is appended to its log."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
            )

    async def end(self, kind: signal.Signals = signal.SIGKILL) -> int:
        """Send it a signal and wait until it is gone; returns its exit code."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(kind)
        return await self._process.wait()

    async def wait(self) -> int:
        """Wait until it ends by itself; returns its exit code."""
        assert self._process is not None
        return await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def keep_alive(self) -> None:
        """Start it again whenever it ends, as kubelet would."""
        while True:
            assert self._process is not None
            await self._process.wait()
            await asyncio.sleep(0.2)  # kubelet waits too; a crash loop must not spin
            await self.start()


@dataclasses.dataclass
class Fabric:
    """The running driver and its two clusters, for one test in namespaces of its own.

    `namespace` is the consumer's, mapped to `remote_namespace` of the provider.
    """

    rome: control_plane.ControlPlane
    milan: control_plane.ControlPlane
    consumer: api.Api
    provider: api.Api
    namespace: str
    remote_namespace: str
    directory: pathlib.Path
    controller: Process
    provisioner: Process
    socket: pathlib.Path
    name: str

    @property
    def claims(self) -> str:
        return claims_in(self.namespace)

    @property
    def twins(self) -> str:
        return claims_in(TWINS)

    @property
    def remote_claims(self) -> str:
        return claims_in(self.remote_namespace)

    async def claim_on(self, name: str, node_name: str, **how: Any) -> Json:
        """Make a claim and a pod that wants it on a node; returns the claim."""
        made = await self.consumer.create(self.claims, claim(name, **how))
        await self.consume(name, node_name)
        return made

    async def consume(self, name: str, node_name: str) -> None:
        """Make a pod that wants a claim on a node."""
        await self.consumer.create(self._pods, templates.pod(name, node_name))

    async def bound(self, name: str, *, timeout_seconds: float = 40) -> tuple[Json, Json]:
        """Wait until a claim is bound; returns it and its volume."""
        found = await control_planes.wait_until(
            self.consumer,
            self.claims,
            name,
            lambda item: (item or {}).get("status", {}).get("phase") == "Bound",
            timeout_seconds=timeout_seconds,
        )
        assert found is not None
        return found, await self.consumer.get(f"{VOLUMES}/{found['spec']['volumeName']}")

    async def release(self, name: str) -> None:
        """Delete the pod of a claim."""
        path = f"{self._pods}/{name}"
        found = await self.consumer.find(path)
        if found is not None:
            await self.consumer.delete(path, uid=found["metadata"]["uid"], grace_seconds=0)
            await control_planes.wait_until_gone(self.consumer, self._pods, name)

    async def drop(self, name: str) -> None:
        """Delete a claim's pod and the claim, and wait until the claim is gone."""
        await self.release(name)
        path = f"{self.claims}/{name}"
        found = await self.consumer.find(path)
        if found is not None:
            await self.consumer.delete(path, uid=found["metadata"]["uid"])
        await control_planes.wait_until_gone(self.consumer, self.claims, name)

    async def volume_gone(self, name: str, *, timeout_seconds: float = 40) -> None:
        """Wait until a virtual volume is gone."""
        await control_planes.wait_until(
            self.consumer, VOLUMES, name, lambda v: v is None, timeout_seconds=timeout_seconds
        )

    async def event(self, name: str, text: str, *, timeout_seconds: float = 40) -> str:
        """Wait until an event on a claim contains a text; returns its whole message."""
        path = f"/api/v1/namespaces/{self.namespace}/events"
        async with asyncio.timeout(timeout_seconds):
            query = {"fieldSelector": f"involvedObject.name={name}"}
            listed = await self.consumer.get(path, query)
            for item in listed["items"]:
                if text in item["message"]:
                    return str(item["message"])
            query["resourceVersion"] = listed["metadata"]["resourceVersion"]
            async for seen in self.consumer.watch(path, query, silence_seconds=timeout_seconds):
                message = str(seen["object"].get("message", ""))
                if text in message:
                    return message
        raise AssertionError("the watch ended")

    async def snapshot(self) -> leaks.Snapshot:
        """Account for all that exists in both clusters."""
        rome = await leaks.snapshot_cluster(
            "rome", self.rome.kubeconfig, hostpath=self.rome.hostpath_directory
        )
        return rome | await leaks.snapshot_cluster(
            "milan", self.milan.kubeconfig, hostpath=self.milan.hostpath_directory
        )

    async def settled(self, before: leaks.Snapshot, *, timeout_seconds: float = 60) -> list[str]:
        """Return what is left that was not there before, once nothing more goes away."""
        left = await self._new_since(before)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while left:
                    await asyncio.sleep(0.5)  # many kinds at once: no single watch tells
                    left = await self._new_since(before)
        return left

    async def _new_since(self, before: leaks.Snapshot) -> list[str]:
        """What went away meanwhile is a test before this one's, and was to go."""
        lines = leaks.difference(before, await self.snapshot())
        return [line for line in lines if line.startswith("+")]

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"


def controller_command(socket: pathlib.Path, kubeconfig: pathlib.Path, *more: str) -> list[str]:
    """Return the command line of the controller."""
    return [
        *(*PROGRAM, "controller"),
        f"--csi-endpoint=unix://{socket}",
        "--cluster-id=rome",
        f"--kubeconfig={kubeconfig}",
        "--health-address=127.0.0.1:0",
        "--metrics-address=127.0.0.1:0",
        *more,
    ]


def provisioner_command(
    socket: pathlib.Path, kubeconfig: pathlib.Path, *, elects: bool = False
) -> list[str]:
    """Return the sidecar's command line, with the arguments that deploy/ gives it.

    Alone it need not be elected, which would make each test wait for a lease.
    """
    manifests = yaml.safe_load_all((ROOT / "deploy/base/controller.yaml").read_text())
    containers = next(
        part["spec"]["template"]["spec"]["containers"]
        for part in manifests
        if part["kind"] == "Deployment"
    )
    deployed = next(c["args"] for c in containers if c["name"] == "csi-provisioner")
    own: tuple[str, ...] = ("--csi-address", "--http-endpoint", "--timeout")
    if not elects:
        own += ("--leader-election", "--feature-gates")
    return [
        str(BINARIES / "csi-provisioner"),
        *(argument for argument in deployed if not argument.startswith(own)),
        f"--csi-address={socket}",
        f"--kubeconfig={kubeconfig}",
        "--timeout=20s",  # a test should not wait two minutes for a call that hangs
    ]


def remote_cluster(mapping: dict[str, str], **spec: Any) -> Json:
    """Return the RemoteCluster that stands for the provider."""
    return {
        "apiVersion": "csi.liqo.io/v1alpha1",
        "kind": "RemoteCluster",
        "metadata": {"name": "milan"},
        "spec": {
            "clusterID": "milan",
            "kubeconfigSecretRef": {"name": "milan"},
            "namespaceMapping": {"explicit": mapping},
            **spec,
        },
    }


def kubeconfig_secret(text: str) -> Json:
    """Return the Secret by which the consumer reaches the provider."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "milan", "namespace": "csi-liqo"},
        "stringData": {"kubeconfig": text},
    }


@contextlib.asynccontextmanager
async def running(
    rome: control_plane.ControlPlane,
    milan: control_plane.ControlPlane,
    directory: pathlib.Path,
    namespace: str,
    *,
    consumer_kubeconfig: pathlib.Path | None = None,
    provider_kubeconfig: str = "",
    orphan_grace_seconds: float = 300,
    attach: bool = False,
    change: Callable[[Json], None] = lambda remote: None,
    cluster_id: str = "rome",
    remote_namespace: str = "",
) -> AsyncIterator[Fabric]:
    """Run controller and sidecar against two prepared clusters, for one test.

    Another kubeconfig than the real one leads a side through a proxy. `change` edits
    the RemoteCluster before it is applied. Another consumer than rome has another
    `cluster_id`, and may be mapped to the same `remote_namespace`.
    """
    remote_namespace = remote_namespace or f"{cluster_id}-{namespace}"
    kubectl(rome, "create", "namespace", namespace)
    grant_namespace(milan, remote_namespace, cluster_id)
    text = provider_kubeconfig or milan.kubeconfig_text(consumer_user(cluster_id))
    remote = remote_cluster({namespace: remote_namespace})
    change(remote)
    kubectl(rome, "apply", "-f", "-", text=yaml.safe_dump_all([kubeconfig_secret(text), remote]))
    socket = directory / "csi.sock"
    user, name = CONTROLLER_USER, "csi.liqo.io"
    more = [f"--orphan-grace-seconds={orphan_grace_seconds}", f"--cluster-id={cluster_id}"]
    if attach:
        user, name = ATTACHING_USER, ATTACHING_DRIVER
        more += ATTACHING_ARGUMENTS
        install_attaching(rome)
    kubeconfig = consumer_kubeconfig or rome.kubeconfig_for(user)
    arguments = controller_command(socket, kubeconfig, *more)
    # A pod keeps its name when a container of it starts anew, and so its lease.
    controller = Process(arguments, directory / "controller.log", POD_NAME="controller")
    sidecar = Process(
        provisioner_command(socket, rome.kubeconfig_for(user)),
        directory / "csi-provisioner.log",
        NAMESPACE="csi-liqo",
    )
    async with (
        await api.Api.of(rome.kubeconfig) as consumer,
        await api.Api.of(milan.kubeconfig) as provider,
    ):
        fabric = Fabric(
            *(rome, milan, consumer, provider, namespace, remote_namespace),
            *(directory, controller, sidecar, socket, name),
        )
        await controller.start()
        await sidecar.start()
        supervisor = asyncio.create_task(sidecar.keep_alive())  # it ends with every connection
        try:
            await control_planes.wait_until(consumer, REMOTE_CLUSTERS, "milan", is_ready)
            yield fabric
        except BaseException:
            for process in (controller, sidecar):
                sys.stderr.write(f"--- {process.log.name}\n{process.log.read_text()[-6000:]}\n")
            raise
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
            await sidecar.end()
            await controller.end(signal.SIGTERM)
            forget_remote_cluster(rome, "milan")
            kubectl(rome, "delete", "--namespace=csi-liqo", "secret", "milan")
            await leave_nothing(fabric)


async def leave_nothing(left: Fabric) -> None:
    """Take away which volumes a test left in the provider: the next one's driver would care.

    A namespace of the provider with a volume in it, that another user was granted, keeps
    every later look at the provider from being whole. Volumes of the consumer itself end in
    their own way, with their twins.
    """
    rome = left.consumer
    for volume in (await rome.get(VOLUMES))["items"]:
        claim = volume["spec"].get("claimRef", {})
        twin = volume["spec"].get("csi", {}).get("volumeAttributes", {}).get("twin", "")
        remote = twin and not twin.startswith(f"{TWINS}/")
        if remote and (
            claim.get("namespace") == left.namespace or twin.startswith(f"{left.remote_namespace}/")
        ):
            await _take_away(rome, f"{VOLUMES}/{volume['metadata']['name']}", volume)
    notes = (await rome.find(ATTEMPTS) or {}).get("data") or {}
    ended = [uid for uid, text in notes.items() if text.split("/")[1] == left.namespace]
    if ended:
        await rome.merge(ATTEMPTS, {"data": dict.fromkeys(ended)})


async def _take_away(server: api.Api, path: str, thing: Json) -> None:
    """Delete an object whatever holds it."""
    uid = thing["metadata"]["uid"]
    await server.delete(path, uid=uid)
    try:
        await server.merge(path, {"metadata": {"uid": uid, "finalizers": None}})
    except api.ApiError as error:
        if error.status not in (404, 409):  # gone, or another has its name
            raise


async def program(rome: control_plane.ControlPlane, *arguments: str) -> tuple[int, str, str]:
    """Run a command of the driver's program as the administrator of a consumer.

    Returns its exit code, what it printed, and what it complained of.
    """
    child = await asyncio.create_subprocess_exec(
        *(*PROGRAM, *arguments, f"--kubeconfig={rome.kubeconfig}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, complaint = await child.communicate()
    assert child.returncode is not None
    return child.returncode, told.decode(), complaint.decode()


async def orphans(
    rome: control_plane.ControlPlane, consumer: str, *more: str
) -> list[dict[str, str]]:
    """Return what the program lists of a consumer's twins that no volume names."""
    arguments = ("where", "--orphans", "--output=json", f"--consumer-id={consumer}", *more)
    code, told, complaint = await program(rome, *arguments)
    assert code == 0, complaint
    assert "out of sight" not in complaint, complaint
    rows: list[dict[str, str]] = json.loads(told)
    return rows


def forget_remote_cluster(rome: control_plane.ControlPlane, name: str) -> None:
    """Delete a RemoteCluster with nobody there to let it go, whatever lives in its provider."""
    kubectl(rome, "label", "remotecluster", name, "csi.liqo.io/fence=open")
    patch = json.dumps({"metadata": {"finalizers": None}})
    kubectl(rome, "patch", "remotecluster", name, "--type=merge", f"--patch={patch}")
    kubectl(rome, "delete", "remotecluster", name)


def is_ready(remote: Json | None) -> bool:
    """Tell whether a RemoteCluster says that it is ready."""
    conditions = (remote or {}).get("status", {}).get("conditions", [])
    return ("Ready", "True") in {(item["type"], item["status"]) for item in conditions}
