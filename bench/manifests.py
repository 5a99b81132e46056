"""The objects that the measurements make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from lab import templates

Json = dict[str, Any]

DRIVER: Final = "csi.liqo.io"
CLUSTER_KEY: Final = "topology.csi.liqo.io/cluster"
NODE_KEY: Final = "topology.csi.liqo.io/node"
NOOP: Final = "noop.csi.example.com"
LOOP: Final = "loop.csi.example.com"
HOST_PATH: Final = "kubernetes.io/host-path"
STATIC: Final = "kubernetes.io/no-provisioner"

CONSUMER: Final = "rome"
PROVIDER: Final = "milan"
NODE: Final = "rome-1"
NAMESPACE: Final = "bench"
"""Of the consumer's claims."""
REMOTE_NAMESPACE: Final = "bench-rome"
"""What it is mapped to in the provider."""

TWINS: Final = "/api/v1/namespaces/csi-liqo-storage/persistentvolumeclaims"
"""Where the driver has its local twins."""

SIZE: Final = "64Mi"


def storage_class(
    name: str,
    provisioner: str,
    parameters: Mapping[str, str] | None = None,
    *,
    waits: bool = True,
    offered: bool = False,
) -> Json:
    """Return a StorageClass."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "labels": {"csi.liqo.io/offered": "true"} if offered else {}},
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer" if waits else "Immediate",
        "parameters": dict(parameters or {}),
    }


def claim(name: str, class_name: str, *, block: bool = False, size: str = SIZE) -> Json:
    """Return a claim."""
    mode = "Block" if block else "Filesystem"
    resources = {"requests": {"storage": size}}
    return templates.claim(name, class_name, volumeMode=mode, resources=resources)


def real_node(name: str) -> Iterable[Json]:
    """Return a real node as kubelet would register it with every driver."""
    keys = {DRIVER: {CLUSTER_KEY: CONSUMER, NODE_KEY: name}}
    keys |= {driver: {f"{driver}/node": name} for driver in (NOOP, LOOP)}
    labels = {key: value for told in keys.values() for key, value in told.items()}
    yield templates.node(name, labels)
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": name},
        "spec": {
            "drivers": [
                {"name": driver, "nodeID": name, "topologyKeys": list(told)}
                for driver, told in keys.items()
            ]
        },
    }


def virtual_node(cluster: str) -> Json:
    """Return the node that stands for a provider."""
    return templates.node(
        cluster, {"liqo.io/type": "virtual-node", "liqo.io/remote-cluster-id": cluster}
    )


def ready_status() -> Json:
    """Return the status patch by which a node without kubelet takes every pod."""
    room = {"cpu": "64", "memory": "64Gi", "pods": "20000"}
    ready = [{"type": "Ready", "status": "True"}]
    return {"status": {"conditions": ready, "allocatable": room, "capacity": room}}


def csi_driver(name: str, *, attach: bool = False) -> Json:
    """Return the CSIDriver of a real driver."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": name},
        "spec": {"attachRequired": attach},
    }


def remote_cluster(cluster: str, mapping: Mapping[str, str]) -> Json:
    """Return the RemoteCluster that stands for a provider."""
    return {
        "apiVersion": "csi.liqo.io/v1alpha1",
        "kind": "RemoteCluster",
        "metadata": {"name": cluster},
        "spec": {
            "clusterID": cluster,
            "kubeconfigSecretRef": {"name": cluster},
            "namespaceMapping": {"explicit": dict(mapping)},
        },
    }


def kubeconfig_secret(cluster: str, text: str) -> Json:
    """Return the Secret by which the consumer reaches a provider."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": cluster, "namespace": "csi-liqo"},
        "stringData": {"kubeconfig": text},
    }


def namespace(name: str) -> Json:
    """Return a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def counting_schema(name: str, verb: str, resource: str, group: str, precedence: int) -> Json:
    """Return a FlowSchema that changes no priority: the API server counts by it.

    Its metrics know no users, but they know which flow schema a request came under.
    """
    everything = {"namespaces": ["*"], "clusterScope": True, "apiGroups": ["*"]}
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": name},
        "spec": {
            "priorityLevelConfiguration": {"name": "workload-low"},
            "matchingPrecedence": precedence,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [
                {
                    "subjects": [{"kind": "Group", "group": {"name": group}}],
                    "resourceRules": [{"verbs": [verb], "resources": [resource], **everything}],
                }
            ],
        },
    }
