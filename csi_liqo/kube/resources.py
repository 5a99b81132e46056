"""Where each kind of object stands in the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from csi_liqo.model import liqo, names, objects

T = TypeVar("T", bound=objects.Object)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One kind: its API group and version as a path, its plural, and the struct it decodes to."""

    prefix: str
    plural: str
    kind: type[T]
    namespaced: bool = False

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of a collection, of one object, or of its subresource."""
        parts = [self.prefix]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


CLAIMS: Final = Resource("/api/v1", "persistentvolumeclaims", objects.Claim, namespaced=True)
VOLUMES: Final = Resource("/api/v1", "persistentvolumes", objects.PersistentVolume)
NODES: Final = Resource("/api/v1", "nodes", objects.Node)
NAMESPACES: Final = Resource("/api/v1", "namespaces", objects.Namespace)
SECRETS: Final = Resource("/api/v1", "secrets", objects.Secret, namespaced=True)
CONFIG_MAPS: Final = Resource("/api/v1", "configmaps", objects.ConfigMap, namespaced=True)
EVENTS: Final = Resource("/api/v1", "events", objects.Event, namespaced=True)
CLASSES: Final = Resource("/apis/storage.k8s.io/v1", "storageclasses", objects.StorageClass)
CSI_NODES: Final = Resource("/apis/storage.k8s.io/v1", "csinodes", objects.CsiNode)
CSI_DRIVERS: Final = Resource("/apis/storage.k8s.io/v1", "csidrivers", objects.CsiDriver)
ATTACHMENTS: Final = Resource(
    "/apis/storage.k8s.io/v1", "volumeattachments", objects.VolumeAttachment
)
CAPACITIES: Final = Resource(
    "/apis/storage.k8s.io/v1", "csistoragecapacities", objects.StorageCapacity, namespaced=True
)
REMOTE_CLUSTERS: Final = Resource(
    f"/apis/{names.GROUP}/v1alpha1", "remoteclusters", objects.RemoteCluster
)
DEFINITIONS: Final = Resource(
    "/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", objects.Definition
)
LIQO_VIRTUAL_NODES: Final = Resource(
    "/apis/offloading.liqo.io/v1beta1", "virtualnodes", liqo.VirtualNode, namespaced=True
)
LIQO_NAMESPACE_MAPS: Final = Resource(
    "/apis/offloading.liqo.io/v1beta1", "namespacemaps", liqo.NamespaceMap, namespaced=True
)
