"""All that the checks look at, read once; what may not be read is told apart from nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from csi_liqo.model import errors, names, objects
from csi_liqo.service.tools import ports, virtual

T = TypeVar("T", bound=objects.Object)

_KINDS: Final = (
    (ports.CLAIMS, ""),
    (ports.VOLUMES, ""),
    (ports.CLASSES, ""),
    (ports.CSI_DRIVERS, ""),
    (ports.CSI_NODES, ""),
    (ports.NODES, ""),
    (ports.REMOTE_CLUSTERS, ""),
    (ports.CAPACITIES, ""),
    (ports.DEPLOYMENTS, names.DRIVER_NAMESPACE),
    (ports.DAEMON_SETS, names.DRIVER_NAMESPACE),
    (ports.LEASES, names.DRIVER_NAMESPACE),
    (ports.CONFIG_MAPS, names.DRIVER_NAMESPACE),
    (ports.EVENTS, ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One cluster as it was a moment ago. ``hidden`` says why a kind could not be read.

    ``given_id`` is the cluster's id as the person says, empty when that was left out.
    """

    version: str
    given_id: str
    found: dict[ports.Kind, list[ports.Manifest]]
    hidden: dict[ports.Kind, str]

    def manifests(self, kind: ports.Kind) -> list[ports.Manifest]:
        """Return the objects of a kind; none when they could not be read."""
        return self.found.get(kind, [])

    def sees(self, *kinds: ports.Kind) -> bool:
        """Whether all of these kinds could be read."""
        return not any(kind in self.hidden for kind in kinds)

    def _of(self, kind: ports.Kind, struct: type[T]) -> list[T]:
        return msgspec.convert(self.manifests(kind), list[struct])  # type: ignore[valid-type]  # a type only known at run time

    @property
    def claims(self) -> list[objects.Claim]:
        return self._of(ports.CLAIMS, objects.Claim)

    @property
    def volumes(self) -> list[objects.PersistentVolume]:
        return self._of(ports.VOLUMES, objects.PersistentVolume)

    @property
    def virtual_volumes(self) -> list[objects.PersistentVolume]:
        return [volume for volume in self.volumes if virtual.is_virtual(volume)]

    @property
    def classes(self) -> list[objects.StorageClass]:
        return self._of(ports.CLASSES, objects.StorageClass)

    @property
    def csi_drivers(self) -> list[objects.CsiDriver]:
        return self._of(ports.CSI_DRIVERS, objects.CsiDriver)

    @property
    def csi_nodes(self) -> list[objects.CsiNode]:
        return self._of(ports.CSI_NODES, objects.CsiNode)

    @property
    def nodes(self) -> list[objects.Node]:
        return self._of(ports.NODES, objects.Node)

    @property
    def remote_clusters(self) -> list[objects.RemoteCluster]:
        return self._of(ports.REMOTE_CLUSTERS, objects.RemoteCluster)

    @property
    def schedulable(self) -> set[str]:
        """Names of the nodes that take new pods."""
        return {
            node["metadata"]["name"]
            for node in self.manifests(ports.NODES)
            if not node.get("spec", {}).get("unschedulable")
        }

    @property
    def drivers(self) -> dict[str, bool]:
        """Our installations: driver name to whether it attaches."""
        return {
            driver.name: driver.spec.attach_required
            for driver in self.csi_drivers
            if driver.name == names.DEFAULT_DRIVER
            or driver.name.startswith(f"{names.DEFAULT_DRIVER}-")
        }

    @property
    def liqo_clusters(self) -> set[str]:
        """Clusters that an installation knows from an existing Liqo, by its virtual nodes."""
        if not any(_asks_liqo(item) for item in self.manifests(ports.DEPLOYMENTS)):
            return set()
        return {
            node.metadata.labels.get(names.REMOTE_CLUSTER_ID_LABEL, "")
            for node in self.nodes
            if node.virtual
        } - {""}

    @property
    def cluster_id(self) -> str:
        """This cluster's id, as the person or the installation says; empty when unknown."""
        return self.given_id or self.told_id

    @property
    def told_id(self) -> str:
        """What the installation was told; empty when it was told nothing."""
        for item in self.manifests(ports.CONFIG_MAPS):
            if item["metadata"]["name"] == "csi-liqo":
                return str((item.get("data") or {}).get("clusterID", ""))
        return ""


def _asks_liqo(deployment: ports.Manifest) -> bool:
    """Whether a controller is started with --remote-clusters=liqo or =both."""
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        said = [argument.partition("=") for argument in container.get("args") or ()]
        said += [(v["name"], "=", v.get("value", "")) for v in container.get("env") or ()]
        for name, _, value in said:
            if name in ("--remote-clusters", "CSI_LIQO_REMOTE_CLUSTERS") and value != "csi-liqo":
                return True
    return False


async def look(server: ports.Server, given_id: str) -> Facts:
    """Read what there is.

    Raises:
        errors.ApiError: the API server does not answer.
    """
    hidden: dict[ports.Kind, str] = {}

    async def read(kind: ports.Kind, namespace: str) -> tuple[ports.Kind, list[ports.Manifest]]:
        try:
            return kind, await server.list(kind, namespace)
        except errors.ApiForbiddenError:
            hidden[kind] = f"list {kind.plural}" + (f" in {namespace}" if namespace else "")
        except errors.ApiNotFoundError:
            hidden[kind] = f"the API has no {kind.plural}"
        return kind, []

    version = await server.version()
    parts = await asyncio.gather(*(read(kind, namespace) for kind, namespace in _KINDS))
    return Facts(version=version, given_id=given_id, found=dict(parts), hidden=hidden)


def entries(found: Iterable[objects.CsiNode], driver: str) -> set[str]:
    """Return the nodes whose CSINode has a driver."""
    return {node.name for node in found if any(entry.name == driver for entry in node.drivers)}
