"""The Node that stands for a cluster: kept there, kept ready, and nothing more.

Its fields are applied server-side under a manager of their own, so labels,
annotations and conditions that others set stay as they are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
from typing import TYPE_CHECKING, Final

from lab import api, mirror

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

MANAGER: Final = "virtual-kubelet"
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
# As kubelet: the control plane gives a node up after 40 s without a renewal.
LEASE_SECONDS: Final = 40
RENEWAL_SECONDS: Final = 10
RETRY_SECONDS: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class NodeSpec:
    """What the virtual node says about itself."""

    name: str
    cluster_id: str
    address: str
    port: int
    version: str
    capacity: Mapping[str, str]
    taints: Sequence[Mapping[str, str]] = ()

    @property
    def labels(self) -> dict[str, str]:
        """The labels this kubelet owns; others may add theirs."""
        return {
            "liqo.io/type": "virtual-node",
            "liqo.io/remote-cluster-id": self.cluster_id,
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }

    def forge(self) -> api.Json:
        """Return the Node as it is applied."""
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": self.labels},
        }

    def forge_status(self, node: api.Json) -> api.Json:
        """Return the part of the status to apply; a condition keeps the time it last changed."""
        now = _now()
        changed = {
            item["type"]: item.get("lastTransitionTime", now)
            for item in node.get("status", {}).get("conditions") or []
            if item["status"] == _wanted_condition(item["type"])
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": self.address},
                    {"type": "Hostname", "address": self.name},
                ],
                "capacity": dict(self.capacity),
                "allocatable": dict(self.capacity),
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
                "nodeInfo": _node_info(self.version),
                "conditions": [
                    {
                        "type": kind,
                        "status": _wanted_condition(kind),
                        "reason": "VirtualKubelet",
                        "message": f"stands for cluster {self.cluster_id}",
                        "lastHeartbeatTime": now,
                        "lastTransitionTime": changed.get(kind, now),
                    }
                    for kind in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
                ],
            },
        }


class NodeKeeper:
    """Makes the Node, its status and its lease, and makes them again when they go."""

    def __init__(self, *, consumer: api.Api, spec: NodeSpec) -> None:
        self._consumer = consumer
        self._spec = spec
        self._changes = asyncio.Event()
        self._leased_uid = ""
        self._nodes = mirror.Mirror(
            consumer,
            "/api/v1/nodes",
            selectors={"fieldSelector": f"metadata.name={spec.name}"},
            changed=lambda _: self._changes.set(),
        )

    async def run(self) -> None:
        """Keep the node until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run(), name="node mirror")
            await self._nodes.synced.wait()
            self._changes.set()
            tasks.create_task(self._keep_node(), name="node")
            tasks.create_task(self._keep_lease(), name="node lease")

    def _seen(self) -> api.Json | None:
        return self._nodes.objects.get(mirror.Key("", self._spec.name))

    async def _keep_node(self) -> None:
        while True:
            await self._changes.wait()
            self._changes.clear()
            try:
                await self._ensure()
            except api.FAILURES as error:
                logger.info("node %s, trying again: %s", self._spec.name, error)
                await asyncio.sleep(RETRY_SECONDS)
                self._changes.set()

    async def _ensure(self) -> None:
        node = self._seen()
        if node is None:
            await self._create()
            return
        if node["metadata"]["uid"] != self._leased_uid:
            # The lease of a deleted node is collected with it.
            await self._renew(node)
        labels = node["metadata"].get("labels") or {}
        path = f"/api/v1/nodes/{self._spec.name}"
        if not self._spec.labels.items() <= labels.items():
            await self._consumer.apply(path, self._spec.forge(), manager=MANAGER)
        wanted = self._spec.forge_status(node)
        if not _agrees(node.get("status") or {}, wanted["status"]):
            await self._consumer.apply(path + "/status", wanted, manager=MANAGER)

    async def _create(self) -> None:
        node = self._spec.forge()
        # Given once: afterwards the control plane owns the list, and adds to it.
        node["spec"] = {"taints": [dict(taint) for taint in self._spec.taints]}
        try:
            await self._consumer.create("/api/v1/nodes", node)
            logger.info("made node %s", self._spec.name)
        except api.ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            try:
                node = self._seen()
                if node is not None:
                    await self._renew(node)
            except api.FAILURES as error:
                logger.info("the lease of node %s was not renewed: %s", self._spec.name, error)

    async def _renew(self, node: api.Json) -> None:
        name = self._spec.name
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": node["metadata"]["uid"],
        }
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {
                "holderIdentity": name,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": _now(timespec="microseconds"),
            },
        }
        await self._consumer.apply(f"{LEASES}/{name}", lease, manager=MANAGER)
        self._leased_uid = node["metadata"]["uid"]


def _agrees(status: api.Json, wanted: api.Json) -> bool:
    """Tell whether a status says what is wanted, heartbeats aside."""
    found = {item["type"]: item["status"] for item in status.get("conditions") or []}
    conditions = all(found.get(item["type"]) == item["status"] for item in wanted["conditions"])
    fields = ("capacity", "allocatable", "daemonEndpoints")
    addresses = {(item["type"], item["address"]) for item in status.get("addresses") or []}
    return (
        conditions
        and all(status.get(field) == wanted[field] for field in fields)
        and addresses >= {(item["type"], item["address"]) for item in wanted["addresses"]}
    )


def _wanted_condition(kind: str) -> str:
    return "True" if kind == "Ready" else "False"


def _node_info(version: str) -> api.Json:
    unknown = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion")
    return {
        **dict.fromkeys(unknown, ""),
        "containerRuntimeVersion": "virtual-kubelet://",
        "kubeletVersion": version,
        "operatingSystem": "linux",
        "architecture": "amd64",
    }


def _now(timespec: str = "seconds") -> str:
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec=timespec)
    return moment.replace("+00:00", "Z")
