"""All that the checks look at, read once; what may not be read is told apart from nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from csi_liqo.model import attempts, errors, liqo, names, objects
from csi_liqo.service.tools import begun, ports, told, virtual

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
_OF_LIQO: Final = ((ports.LIQO_VIRTUAL_NODES, ""), (ports.LIQO_NAMESPACE_MAPS, ""))
"""Looked at only where Liqo's objects describe providers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One cluster as it was a moment ago. ``hidden`` says why a kind could not be read.

    ``given`` is what the person says of the installation's settings, ``attempts`` which claims
    may have something in a provider.
    """

    version: str
    given: told.Told
    found: dict[ports.Kind, list[ports.Manifest]]
    hidden: dict[ports.Kind, str]
    attempts: tuple[attempts.Attempt, ...] = ()

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
        """Where RemoteClusters are looked at; elsewhere they mean nothing."""
        if not self.source.of_our_own:
            return []
        return self._of(ports.REMOTE_CLUSTERS, objects.RemoteCluster)

    @property
    def providers(self) -> list[objects.RemoteCluster]:
        """RemoteClusters, and what Liqo describes and no RemoteCluster stands for."""
        own = self.remote_clusters
        if not self.source.of_liqo:
            return own
        nodes = self._of(ports.LIQO_VIRTUAL_NODES, liqo.VirtualNode)
        maps = self._of(ports.LIQO_NAMESPACE_MAPS, liqo.NamespaceMap)
        known = {remote.spec.cluster_id for remote in own}
        others = dict.fromkeys(node.spec.cluster_id for node in nodes)
        found = [liqo.describe(one, nodes, maps) for one in others if one not in known]
        return own + [described for described in found if described is not None]

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
        if not self.source.of_liqo:
            return set()
        return {
            node.metadata.labels.get(names.REMOTE_CLUSTER_ID_LABEL, "")
            for node in self.nodes
            if node.virtual
        } - {""}

    @property
    def cluster_id(self) -> str:
        """This cluster's id, as the person or the installation says; empty when unknown."""
        return self.given.cluster_id or self.installed.cluster_id

    @property
    def source(self) -> told.Source:
        """What describes the providers, as the person or the installation says."""
        return self.given.source or self.installed.source or told.Source.CSI_LIQO

    @property
    def installed(self) -> told.Told:
        """What the installation was told."""
        return told.read(self.manifests(ports.CONFIG_MAPS), self.manifests(ports.DEPLOYMENTS))


async def look(server: ports.Server, given: told.Told) -> Facts:
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
    noted = await begun.read_if_allowed(server)
    seen = Facts(
        version=version,
        given=given,
        found=dict(parts),
        hidden=hidden,
        attempts=tuple(noted.values()),
    )
    if seen.source.of_liqo:
        more = await asyncio.gather(*(read(kind, namespace) for kind, namespace in _OF_LIQO))
        seen.found.update(more)
    return seen


def entries(found: Iterable[objects.CsiNode], driver: str) -> set[str]:
    """Return the nodes whose CSINode has a driver."""
    return {node.name for node in found if any(entry.name == driver for entry in node.drivers)}
