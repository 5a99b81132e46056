"""Objects that users, administrators and kubelets make, as tests and bench need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def claim(name: str, class_name: str, **spec: Any) -> Json:
    """Return a claim of 64 MiB; ``spec`` has what else its spec says, or says otherwise."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "64Mi"}},
            "storageClassName": class_name,
            **spec,
        },
    }


def pod(claim_name: str, node_name: str) -> Json:
    """Return a pod that consumes the claim of its name on one node, as the scheduler sees it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": claim_name},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node_name},
            "containers": [{"name": "main", "image": "none"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim_name}}],
        },
    }


def node(name: str, labels: Mapping[str, str]) -> Json:
    """Return a node, with the labels that each has beside the given."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def local_volume(name: str, node_name: str, *, size: str = "100Mi", path: str = "") -> Json:
    """Return a volume of class static on one node, as an administrator makes one by hand."""
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node_name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "static",
            "local": {"path": path or f"/mnt/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }
