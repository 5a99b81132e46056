"""The clusters that can hold volumes, this one and the providers, seen as one kind of thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from csi_liqo.model import errors, objects
from csi_liqo.service import ports

BY_VOLUME = "volume"
"""Index of claims: a twin by its volume's id."""
BY_HANDLE = "handle"
"""Index of volumes: one of this driver's by its volume's id."""
BY_CLAIM_UID = "claim-uid"
"""Index of volumes: by the uid of the claim they are bound to."""
BY_CLASS = "class"
"""Index of volumes, and of capacities: by the name of their class."""
BY_WISH = "wish"
"""Index of claims that are not bound and name a provider's class: by the name of their own."""
BY_HOME = "home"
"""Index of volumes: virtual ones, of every installation here, by their home cluster's id."""
BY_NODE_KEY = "node-key"
"""Index of nodes: by the value of our topology key for nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One cluster as a place for twins.

    ``volumes``, ``classes``, ``capacities`` and ``csi_drivers`` are None where this consumer
    may not read them: in a provider these are optional grants. ``spec`` is None for this
    cluster. One that is ``closing`` takes no new volumes: its description is being deleted.
    """

    id: str
    claims: ports.Objects[objects.Claim]
    volumes: ports.Objects[objects.PersistentVolume] | None
    classes: ports.Objects[objects.StorageClass] | None
    warnings: ports.Warnings
    capacities: ports.Objects[objects.StorageCapacity] | None = None
    csi_drivers: ports.Objects[objects.CsiDriver] | None = None
    config_maps: ports.Objects[objects.ConfigMap] | None = None
    """Only to be written, in a provider's namespaces; whether that is granted, trying tells."""
    spec: objects.RemoteClusterSpec | None = None
    closing: bool = False
    identity: str = ""
    """What tells a provider from any other cluster; empty where nothing of it may be read."""

    @property
    def local(self) -> bool:
        return self.spec is None

    @property
    def synced(self) -> bool:
        """Whether absence from the caches is proof of absence from the cluster."""
        return self.claims.synced and (self.volumes is None or self.volumes.synced)


class Providers(Protocol):
    """The remote clusters known at the moment."""

    def get(self, cluster_id: str) -> Cluster | None:
        """Return a connected provider, None when none has this id or it has no connection yet."""

    async def ready(self, cluster_id: str) -> Cluster | None:
        """As ``get``, giving a connection that is being made a moment."""

    def all(self) -> Iterable[Cluster]:
        """Return every connected provider."""

    def trouble(self, cluster_id: str) -> str:
        """Say why a provider cannot be spoken to, as of now; empty when nothing is known."""

    def complete(self) -> bool:
        """Tell whether every provider that is configured is connected."""

    def described(self) -> frozenset[str] | None:
        """Return the ids that exactly one description has, connected or not.

        None as long as not all descriptions are known.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """This cluster: its objects, by kind."""

    cluster_id: str
    claims: ports.Objects[objects.Claim]
    volumes: ports.Objects[objects.PersistentVolume]
    classes: ports.Objects[objects.StorageClass]
    nodes: ports.Objects[objects.Node]
    csi_nodes: ports.Objects[objects.CsiNode]
    csi_drivers: ports.Objects[objects.CsiDriver]
    warnings: ports.Warnings


class Clusters:
    """Every cluster by its id."""

    def __init__(self, consumer: Consumer, providers: Providers) -> None:
        self.local = Cluster(
            id=consumer.cluster_id,
            claims=consumer.claims,
            volumes=consumer.volumes,
            classes=consumer.classes,
            warnings=consumer.warnings,
        )
        self._providers = providers

    def __iter__(self) -> Iterator[Cluster]:
        yield self.local
        yield from self._providers.all()

    def get(self, cluster_id: str) -> Cluster | None:
        """Return the cluster of this id, None when it is unknown or not connected."""
        return self.local if cluster_id == self.local.id else self._providers.get(cluster_id)

    async def ready(self, cluster_id: str) -> Cluster | None:
        """As ``get``, giving a connection that is being made a moment."""
        if cluster_id == self.local.id:
            return self.local
        return await self._providers.ready(cluster_id)

    def described(self) -> frozenset[str] | None:
        """Return the providers' ids that exactly one description has; None: not known yet."""
        return self._providers.described()

    def trouble(self, cluster_id: str) -> str:
        """Say why a provider cannot be spoken to."""
        return self._providers.trouble(cluster_id)

    def require_synced(self, volume_id: str) -> None:
        """Refuse to call a volume gone while some cluster that may hold it is out of sight.

        Raises:
            errors.OutcomeUnknownError: names the clusters that are out of sight.
        """
        unsynced = [cluster.id for cluster in self if not cluster.synced]
        if unsynced or not self._providers.complete():
            out_of_sight = ", ".join(unsynced) or "a configured one without a connection"
            raise errors.OutcomeUnknownError(
                f"volume {volume_id} may be in a cluster that is out of reach ({out_of_sight}); "
                "waiting for it"
            )
