"""What the commands for people need of an API server: any object, as plain values.

The controller knows few kinds and caches them. A command looks once, at kinds that the
controller must have no right to, and keeps every field it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Manifest = dict[str, Any]
"""An object as its API server wrote it, or is to store it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, and where it stands in the API."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group, empty for the core one."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of a collection, of an object, or of its subresource."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        return "/".join((*parts, self.plural, *filter(None, (name, subresource))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One thing that one may or may not do. An empty namespace means all of them."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class Server(Protocol):
    """One API server."""

    async def find(self, kind: Kind, name: str, namespace: str = "") -> Manifest | None:
        """Return an object, None when there is none.

        Raises:
            errors.ApiError: the server refused, or did not answer. So do all methods.
        """

    async def list(self, kind: Kind, namespace: str = "", *, labels: str = "") -> list[Manifest]:
        """Return all objects of a kind, or those of a namespace or label selector."""

    async def create(self, kind: Kind, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create an object and return it as stored; a dry run only checks that it could be."""

    async def merge(
        self, kind: Kind, name: str, namespace: str, patch: Manifest, *, dry_run: bool = False
    ) -> Manifest:
        """Merge into an object: lists are replaced, None removes. As for a dry run, see above."""

    async def delete(self, kind: Kind, name: str, namespace: str, *, uid: str) -> None:
        """Ask for the deletion of exactly this object; its absence is success."""

    async def may(self, right: Right) -> bool:
        """Tell whether the account that asks has a right."""

    async def wait_until_gone(self, kind: Kind, name: str, *, seconds: float) -> bool:
        """Wait until no cluster-scoped object has this name; False when one still has."""

    async def issue_token(
        self, namespace: str, account: str, *, secret: Manifest | None, seconds: int
    ) -> str:
        """Return a new token of a service account, bound to a Secret of its namespace."""

    async def version(self) -> str:
        """Return the server's own version, as it writes it."""


class Connect(Protocol):
    """Speaks to a server with the credential that a kubeconfig's text holds."""

    def __call__(self, kubeconfig: str) -> AbstractAsyncContextManager[Server]: ...


NAMESPACES = Kind("v1", "Namespace", "namespaces", namespaced=False)
SECRETS = Kind("v1", "Secret", "secrets")
CONFIG_MAPS = Kind("v1", "ConfigMap", "configmaps")
ACCOUNTS = Kind("v1", "ServiceAccount", "serviceaccounts")
CLAIMS = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
VOLUMES = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
NODES = Kind("v1", "Node", "nodes", namespaced=False)
EVENTS = Kind("v1", "Event", "events")
RBAC = "rbac.authorization.k8s.io"
ROLES = Kind(f"{RBAC}/v1", "Role", "roles")
ROLE_BINDINGS = Kind(f"{RBAC}/v1", "RoleBinding", "rolebindings")
CLUSTER_ROLES = Kind(f"{RBAC}/v1", "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDINGS = Kind(
    f"{RBAC}/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False
)
CLASSES = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
CSI_DRIVERS = Kind("storage.k8s.io/v1", "CSIDriver", "csidrivers", namespaced=False)
CSI_NODES = Kind("storage.k8s.io/v1", "CSINode", "csinodes", namespaced=False)
CAPACITIES = Kind("storage.k8s.io/v1", "CSIStorageCapacity", "csistoragecapacities")
LEASES = Kind("coordination.k8s.io/v1", "Lease", "leases")
DEPLOYMENTS = Kind("apps/v1", "Deployment", "deployments")
DAEMON_SETS = Kind("apps/v1", "DaemonSet", "daemonsets")
REMOTE_CLUSTERS = Kind("csi.liqo.io/v1alpha1", "RemoteCluster", "remoteclusters", namespaced=False)

LIQO = "offloading.liqo.io/v1beta1"
LIQO_VIRTUAL_NODES = Kind(LIQO, "VirtualNode", "virtualnodes")
LIQO_NAMESPACE_MAPS = Kind(LIQO, "NamespaceMap", "namespacemaps")


def named(manifest: Manifest) -> str:
    """Return an object's name for people: kind, namespace and name."""
    metadata = manifest["metadata"]
    parts = [part for part in (metadata.get("namespace"), metadata["name"]) if part]
    return f"{manifest.get('kind', 'object')} {'/'.join(parts)}"


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Return an object's labels."""
    labels: dict[str, str] = manifest["metadata"].get("labels") or {}
    return labels


def annotations_of(manifest: Manifest) -> dict[str, str]:
    """Return an object's annotations."""
    annotations: dict[str, str] = manifest["metadata"].get("annotations") or {}
    return annotations


def subjects(*accounts: tuple[str, str]) -> Sequence[Manifest]:
    """Return service accounts, by namespace and name, as subjects of a binding."""
    return [
        {"kind": "ServiceAccount", "namespace": namespace, "name": name}
        for namespace, name in accounts
    ]
