"""What the controller knows of this cluster, kept current: one cache a kind of object.

They are filled before anything else starts, and what must not be different from the last
time is looked at in them then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from csi_liqo.kube import (
    api,
    collection,
    event_warnings,
    indexes,
    liqo,
    namespaces,
    resources,
    sources,
)
from csi_liqo.model import controller_settings, errors, names, objects, twins
from csi_liqo.service.controller import attempts, clusters, description, negotiation


class Caches:
    """The caches of this cluster; ``sources`` is all that describes remote clusters."""

    def __init__(
        self,
        settings: controller_settings.ControllerSettings,
        calls: api.Api,
        watches: api.Api,
    ) -> None:
        self._settings = settings
        self._calls = calls
        volume_indexes = indexes.local_volumes(settings.driver_name)
        self.claims = collection.Collection(
            calls, watches, resources.CLAIMS, indexes=indexes.CLAIMS
        )
        self.volumes = collection.Collection(
            calls, watches, resources.VOLUMES, indexes=volume_indexes
        )
        self.classes = collection.Collection(calls, watches, resources.CLASSES)
        self.nodes = collection.Collection(calls, watches, resources.NODES, indexes=indexes.NODES)
        self.csi_nodes = collection.Collection(calls, watches, resources.CSI_NODES)
        self.csi_drivers = collection.Collection(calls, watches, resources.CSI_DRIVERS)
        self.remote_clusters = collection.Collection(calls, watches, resources.REMOTE_CLUSTERS)
        self.capacities = collection.Collection(
            calls, watches, resources.CAPACITIES, indexes=indexes.CAPACITIES
        )
        self.attachments = collection.Collection(
            calls, watches, resources.ATTACHMENTS, indexes=indexes.ATTACHMENTS
        )
        chosen = settings.remote_clusters
        self._liqo = liqo.LiqoClusters(calls, watches, self.nodes) if chosen.of_liqo else None
        self.sources = sources.Sources(
            self.remote_clusters if chosen.of_our_own else None, self._liqo
        )
        twins_namespace = settings.twins_namespace
        self.notes = self._config_map(twins_namespace, names.ATTEMPTS_CONFIG_MAP, watches)
        self.fence = self._config_map(twins_namespace, settings.fence_config_map, watches)
        self.homes = self._config_map(twins_namespace, settings.homes_config_map, watches)
        self.real_drivers = self._config_map(
            settings.namespace, settings.real_drivers_config_map, watches
        )
        self.attempts = attempts.Attempts(self.notes, settings.twins_namespace)
        self.notes.store.listen(lambda *_: self.attempts.seen())
        self._filled = False

    def _config_map(
        self, namespace: str, name: str, watches: api.Api
    ) -> collection.Collection[objects.ConfigMap]:
        """Return the cache of one ConfigMap: no others may be looked at."""
        return collection.Collection(
            *(self._calls, watches, resources.CONFIG_MAPS),
            namespace=namespace,
            field_selector=f"metadata.name={name}",
        )

    @property
    def filled(self) -> bool:
        """Whether all were in sync once."""
        return self._filled

    def consumer(self) -> clusters.Consumer:
        """Return this cluster as the use cases see it."""
        return clusters.Consumer(
            cluster_id=self._settings.cluster_id,
            claims=self.claims,
            volumes=self.volumes,
            classes=self.classes,
            nodes=self.nodes,
            csi_nodes=self.csi_nodes,
            csi_drivers=self.csi_drivers,
            warnings=event_warnings.EventWarnings(self._calls),
        )

    async def fill(self, group: asyncio.TaskGroup) -> None:
        """Have the group keep them current, and return once all are in sync.

        Raises:
            errors.PreconditionError: this cluster was served under another cluster id before.
        """
        followed = self._followed()
        for part in followed:
            group.create_task(part.keep(), name="cache of this cluster")
        for part in followed:
            await part.store.wait_synced()
        self._refuse_another_id()
        self._filled = True
        self.sources.follow()
        if self._liqo is not None:
            group.create_task(self._liqo.keep(), name="providers that Liqo describes")

    def namespaces_in_use(self, spec: objects.RemoteClusterSpec) -> Iterable[str]:
        """Return the namespaces of a provider that may hold twins of this cluster."""
        used = set(spec.namespace_mapping.explicit.values())
        for volume in self.volumes.select(clusters.BY_HOME, spec.cluster_id):
            with contextlib.suppress(errors.InvalidRequestError):  # made by hand, of no use
                used.add(description.twin_of(volume).namespace)
        for begun in self.attempts.all().values():
            if begun.cluster_id == spec.cluster_id:
                own_id = self._settings.cluster_id
                used.add(negotiation.map_namespace(spec, own_id, begun.namespace))
        return used - {""}

    def remembered_identity(self, cluster_id: str) -> str:
        """Return by what identity the volumes of a provider know it; empty when none does."""
        return description.remembered_identity(self.volumes.all(), cluster_id)

    async def mapped_namespaces(self, spec: objects.RemoteClusterSpec) -> Iterable[str]:
        """Return the namespaces of a provider that its mapping leads to without naming them.

        Raises:
            errors.ApiError: this cluster does not say which namespaces it has.
        """
        if not negotiation.maps_unnamed(spec):
            return ()
        known = await namespaces.list_names(self._calls)
        return negotiation.map_all(spec, self._settings.cluster_id, known)

    def _followed(self) -> tuple[collection.Collection[Any], ...]:
        always: tuple[collection.Collection[Any], ...] = (
            self.claims,
            self.volumes,
            self.classes,
            self.nodes,
            self.csi_nodes,
            self.csi_drivers,
            self.remote_clusters,
            self.capacities,
            self.notes,
            self.fence,
            self.homes,
            self.real_drivers,
        )
        return (*always, self.attachments) if self._settings.attach else always

    def _refuse_another_id(self) -> None:
        """A changed cluster id would make every volume's home another cluster than it is."""
        own = self._settings.cluster_id
        remedy = f"set the cluster id back to it, or remove these first; it is {own} now"
        for node in self.nodes.all():
            other = node.metadata.labels.get(names.CLUSTER_KEY, own)
            if not node.virtual and other != own:
                raise errors.PreconditionError(
                    f"node {node.name} has label {names.CLUSTER_KEY}={other}: {remedy}"
                )
        for volume in self.volumes.all():
            source = volume.spec.csi
            if source is None or source.driver != self._settings.driver_name:
                continue
            other = source.volume_attributes.get(twins.CONSUMER_KEY, own)
            if other != own:
                raise errors.PreconditionError(
                    f"PersistentVolume {volume.name} was made for cluster id {other}: {remedy}"
                )
