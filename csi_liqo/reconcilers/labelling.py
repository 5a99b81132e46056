"""Keeps the labels and annotations of a virtual claim and its remote twin alike.

A twin gets its claim's when it is made. From then on changes of either side reach the
other here: in the provider, tools go by the twin's labels; here, what they wrote is
read off the claim. Local twins are nobody's business but the driver's.
"""

from __future__ import annotations

from typing import Final

from csi_liqo.model import errors, labelling, objects
from csi_liqo.service.controller import clusters, description

AWAY_SECONDS: Final = 30.0
"""How soon a provider that was out of sight is looked at again."""
CHANGED_SECONDS: Final = 0.5


class Labelling:
    """Looks at one virtual volume at a time, by its id."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        rules: labelling.Rules,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._rules = rules

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Bring the marks of one volume's claim and twin together; returns when to look again."""
        for volume in self._consumer.volumes.select(clusters.BY_HANDLE, key[1]):
            claim = self._claim_of(volume)
            home = description.home_of(volume)
            if claim is None or home in ("", self._clusters.local.id):
                continue
            cluster = self._clusters.get(home)
            if cluster is None or not cluster.synced:
                return AWAY_SECONDS
            try:
                await self._share(cluster, volume, claim)
            except errors.ApiConflictError:
                return CHANGED_SECONDS  # what changed it is about to reach the cache
        return None

    def _claim_of(self, volume: objects.PersistentVolume) -> objects.Claim | None:
        reference = volume.spec.claim_ref
        if reference is None:
            return None
        claim = self._consumer.claims.get(reference.namespace, reference.name)
        return claim if claim is not None and claim.uid == reference.uid else None

    async def _share(
        self, cluster: clusters.Cluster, volume: objects.PersistentVolume, claim: objects.Claim
    ) -> None:
        try:
            reference = description.twin_of(volume)
        except errors.InvalidRequestError:
            return  # made by hand, without a twin
        twin = cluster.claims.get(reference.namespace, reference.name)
        if twin is None or twin.uid != reference.uid or twin.deleting or claim.deleting:
            return
        if twin.consumer != self._consumer.cluster_id:
            return  # it lost the mark that makes it ours
        forward = labelling.forge_to_twin(self._rules, claim.metadata, twin.metadata)
        if forward is not None:
            await cluster.claims.patch(twin.namespace, twin.name, forward)
        back = labelling.forge_to_claim(self._rules, claim.metadata, twin.metadata)
        if back is not None:
            await self._consumer.claims.patch(claim.namespace, claim.name, back)
