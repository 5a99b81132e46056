"""What became of the twin behind a virtual volume.

Good news is believed as the caches tell it. Bad news is read once more from the API
servers, because a volume that is being deleted in the ordinary way looks the same for a
moment, and a false alarm about data is worse than a late one.
"""

from __future__ import annotations

from dataclasses import dataclass

from csi_liqo.model import errors, health, objects, twins
from csi_liqo.service.controller import clusters, description


@dataclass(frozen=True, slots=True)
class Fate:
    """A virtual volume's twin as it is now; ``twin`` is None when it is gone."""

    cluster: clusters.Cluster
    reference: twins.TwinRef
    twin: objects.Claim | None
    health: health.Health

    def __str__(self) -> str:
        where = f"{self.reference.namespace}/{self.reference.name} in cluster {self.cluster.id}"
        match self.health:
            case health.Health.HEALTHY:
                return f"twin {where} is well"
            case health.Health.DELETED:
                return (
                    f"twin {where} was deleted by someone else; its finalizer holds it, and the "
                    "data is still there"
                )
            case health.Health.GONE:
                return f"twin {where} is gone, its finalizer was taken off by someone else"
            case health.Health.LOST:
                return f"the real volume of twin {where} is gone"


async def look(
    consumer: clusters.Consumer,
    everywhere: clusters.Clusters,
    volume: objects.PersistentVolume,
) -> Fate | None:
    """Say how the twin of a virtual volume fares.

    None: nobody can tell now because its home is out of reach; the volume names no twin; or
    it is being deleted.

    Raises:
        errors.ApiError: bad news could not be confirmed.
    """
    try:
        reference = description.twin_of(volume)
    except errors.InvalidRequestError:
        return None  # made by hand, of no use
    cluster = everywhere.get(description.home_of(volume))
    if cluster is None or not await cluster.claims.ready(reference.namespace):
        return None
    twin = cluster.claims.get(reference.namespace, reference.name)
    seen = _judge(cluster, reference, twin)
    if seen.health is health.Health.HEALTHY or going(volume):
        return None if going(volume) else seen
    fresh = await consumer.volumes.read("", volume.name)
    if fresh is None or fresh.uid != volume.uid or going(fresh):
        return None
    reference = description.twin_of(fresh)  # a repair may have given it another
    twin = await cluster.claims.read(reference.namespace, reference.name)
    return _judge(cluster, reference, twin)


def going(volume: objects.PersistentVolume) -> bool:
    """Whether the provisioner deletes a virtual volume, or is about to, and so its twin."""
    ended = volume.status.phase in ("Released", "Failed")
    return ended and volume.spec.persistent_volume_reclaim_policy == "Delete"


def _judge(cluster: clusters.Cluster, reference: twins.TwinRef, twin: objects.Claim | None) -> Fate:
    if twin is None or twin.uid != reference.uid:
        return Fate(cluster, reference, None, health.Health.GONE)
    if twin.deleting:
        return Fate(cluster, reference, twin, health.Health.DELETED)
    if twin.status.phase == "Lost":
        return Fate(cluster, reference, twin, health.Health.LOST)
    return Fate(cluster, reference, twin, health.Health.HEALTHY)
