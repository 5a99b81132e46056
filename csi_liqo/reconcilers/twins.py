"""Collects twins that nobody was ever told of.

A twin is made before the provisioner knows of it, so a crash, a claim deleted at the
wrong moment or a pod sent elsewhere can leave one behind. One that was never handed
over holds no data. It goes when its claim is gone, or is bound to another volume; after
a grace time in which a call may still be at work on it, and after a look at the API
servers themselves. What was handed over is never touched here.
"""

from __future__ import annotations

import datetime
import logging

from csi_liqo.model import names, objects
from csi_liqo.service.controller import clusters
from csi_liqo.service.controller import twins as twin_service

logger = logging.getLogger(__name__)


class OrphanTwins:
    """Looks at one twin at a time, by its volume's id."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        made: twin_service.Twins,
        grace_seconds: float,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._twins = made
        self._grace_seconds = grace_seconds

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Collect the orphans among a volume's twins; return when to look at a young one."""
        _, volume_id = key
        again: list[float] = []
        for cluster in self._clusters:
            for twin in cluster.claims.select(clusters.BY_VOLUME, volume_id):
                if twin.consumer != self._consumer.cluster_id or twin.handed_over:
                    continue
                rest = self._grace_seconds - age_seconds(twin)
                if rest > 0:
                    again.append(rest)
                elif await self._orphaned(cluster, twin):
                    logger.info("collecting orphan %s in cluster %s", twin.reference, cluster.id)
                    await self._twins.discard(cluster, twin)
        return min(again, default=None)

    async def _orphaned(self, cluster: clusters.Cluster, cached: objects.Claim) -> bool:
        """Ask the API servers; ``discard`` then insists on the version that was seen here."""
        twin = await cluster.claims.read(cached.namespace, cached.name)
        if twin is None or twin.uid != cached.uid or twin.handed_over or not twin.claim_uid:
            return False
        reference = twin.metadata.annotations.get(names.CLAIM_ANNOTATION, "")
        namespace, _, name = reference.partition("/")
        if not objects.is_object_name(namespace) or not objects.is_object_name(name):
            return False  # somebody changed its marks
        claim = await self._consumer.claims.read(namespace, name)
        if claim is not None and claim.uid == twin.claim_uid and not claim.spec.volume_name:
            return False
        # Gone, or bound: to another twin, unless somebody took the mark off this one.
        return not await self._twins.serves(cluster, twin)


def age_seconds(thing: objects.Object) -> float:
    """Return how long an object has existed by its API server's clock against ours."""
    created = datetime.datetime.fromisoformat(thing.metadata.creation_timestamp)
    return (datetime.datetime.now(datetime.UTC) - created).total_seconds()
