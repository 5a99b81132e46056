"""What an existing Liqo says of a provider, and what that means to this driver.

Liqo's objects in the consumer (APIs of v1beta1) with the fields that are used: a
VirtualNode names the provider, the Secret of its kubeconfig and the classes it
offers; a NamespaceMap says which namespaces are offloaded, and to which names. Together
they are the same description that a RemoteCluster is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from csi_liqo.model import names, objects

NAME_PREFIX: Final = "liqo/"
"""Of the names of Liqo's descriptions; no API object can have a name with a slash."""

REPLICATED_LABEL: Final = "liqo.io/replication"
"""``true`` on a NamespaceMap of this cluster; the copy of another consumer's has it not."""

ACCEPTED: Final = "Accepted"
"""The phase of a namespace that exists in the provider."""

VIRTUAL_CLASS_NAMES: Final = frozenset({"liqo", "csi-liqo"})
"""Liqo offers every class of a provider, also the virtual ones, and not their provisioners.
These are the names that Liqo's chart and this driver's manifests give to theirs."""


class KubeconfigReference(objects.Struct, frozen=True):
    """The Secret with the provider's kubeconfig, in the VirtualNode's own namespace."""

    name: str = ""


class StorageType(objects.Struct, frozen=True):
    storage_class_name: str = ""
    default: bool = False


class VirtualNodeSpec(objects.Struct, frozen=True):
    cluster_id: str = msgspec.field(name="clusterID", default="")
    kubeconfig_secret_ref: KubeconfigReference | None = None
    storage_classes: tuple[StorageType, ...] | None = None


class VirtualNode(objects.Object, frozen=True):
    """One node that stands for a provider; several may stand for the same."""

    spec: VirtualNodeSpec = VirtualNodeSpec()


class RemoteNamespace(objects.Struct, frozen=True):
    remote_namespace: str = ""
    phase: str = ""


class NamespaceMapStatus(objects.Struct, frozen=True):
    current_mapping: dict[str, RemoteNamespace] | None = None


class NamespaceMap(objects.Object, frozen=True):
    """Which of this cluster's namespaces are offloaded to one provider."""

    status: NamespaceMapStatus = NamespaceMapStatus()

    @property
    def cluster_id(self) -> str:
        """The provider's id; empty for the copy of a map that another cluster made here."""
        if self.metadata.labels.get(REPLICATED_LABEL) != "true":
            return ""
        return self.metadata.labels.get(names.REMOTE_CLUSTER_ID_LABEL, "")


class Description(objects.RemoteClusterSpec, frozen=True):
    """A provider as Liqo describes it. ``virtual_nodes`` are ``namespace/name``."""

    offered: tuple[objects.OfferedClass, ...] = ()
    virtual_nodes: tuple[str, ...] = ()

    @property
    def offers(self) -> tuple[objects.OfferedClass, ...] | None:
        return self.offered

    @property
    def described_by(self) -> str:
        return f"Liqo's VirtualNode {', '.join(self.virtual_nodes)}"

    def how_to_map(self, namespace: str) -> str:
        return f"offload it there (liqoctl offload namespace {namespace})"

    def how_to_accept(self, name: str) -> str:
        return (
            f"take annotation {names.IDENTITY_ANNOTATION} off its nodes: kubectl annotate node -l "
            f"{names.REMOTE_CLUSTER_ID_LABEL}={self.cluster_id} {names.IDENTITY_ANNOTATION}-"
        )

    def how_to_offer(self, virtual_class: str) -> str:
        return (
            f"name one in annotation {names.REMOTE_CLASS_ANNOTATION} of the claim or in parameter "
            f"remoteClass of {virtual_class}"
        )


def name_of(cluster_id: str) -> str:
    """Return the name under which Liqo's description of a provider is known."""
    return f"{NAME_PREFIX}{cluster_id}"


def describe(
    cluster_id: str,
    virtual_nodes: Iterable[VirtualNode],
    namespace_maps: Iterable[NamespaceMap],
    *,
    identity: str = "",
    version: str = "",
) -> objects.RemoteCluster | None:
    """Return what Liqo's objects say of a provider; None when no VirtualNode stands for it.

    The VirtualNodes of one provider share its storage: all that any of them offers is
    offered. The kubeconfig is that of the first by name that has one.
    """
    nodes = sorted(
        (n for n in virtual_nodes if n.spec.cluster_id == cluster_id and not n.deleting),
        key=lambda node: node.reference,
    )
    if not nodes or not cluster_id:
        return None
    first = next((node for node in nodes if node.spec.kubeconfig_secret_ref), nodes[0])
    secret = first.spec.kubeconfig_secret_ref or KubeconfigReference()
    spec = Description(
        cluster_id=cluster_id,
        kubeconfig_secret_ref=objects.SecretReference(namespace=first.namespace, name=secret.name),
        namespace_mapping=objects.NamespaceMapping(explicit=_mapped(cluster_id, namespace_maps)),
        offered=_offered(nodes),
        virtual_nodes=tuple(node.reference for node in nodes),
    )
    return objects.RemoteCluster(
        metadata=objects.Metadata(name=name_of(cluster_id), resource_version=version),
        spec=spec,
        status=objects.RemoteClusterStatus(identity=identity),
    )


def _mapped(cluster_id: str, namespace_maps: Iterable[NamespaceMap]) -> dict[str, str]:
    """Return the namespaces that exist in the provider; one on its way out takes no new claim."""
    return {
        local: remote.remote_namespace
        for found in namespace_maps
        if found.cluster_id == cluster_id
        for local, remote in (found.status.current_mapping or {}).items()
        if remote.phase == ACCEPTED
    }


def _offered(nodes: Iterable[VirtualNode]) -> tuple[objects.OfferedClass, ...]:
    found: dict[str, bool] = {}
    for node in nodes:
        for known in node.spec.storage_classes or ():
            name = known.storage_class_name
            if name and name not in VIRTUAL_CLASS_NAMES:
                found[name] = found.get(name, False) or known.default
    return tuple(objects.OfferedClass(name=name, default=found[name]) for name in found)
