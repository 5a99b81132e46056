"""Keeping on a twin what would be lost with its virtual volume.

Reclaim policy Retain lets a virtual volume be deleted by hand and its twin stay. What the
volume was is written onto the twin as soon as the volume is released, which no event can
be missed of: a released volume waits for its administrator.
"""

from __future__ import annotations

import logging

from csi_liqo.model import kept, names, objects, twins
from csi_liqo.service.controller import clusters, fate

logger = logging.getLogger(__name__)


async def protect(
    consumer: clusters.Consumer,
    cluster: clusters.Cluster,
    volume: objects.PersistentVolume,
    twin: objects.Claim,
) -> None:
    """Give the twin of a virtual volume back what protects its data; free when it has it.

    Who may write claims in a provider can take finalizer and marks off, by a backup tool or
    by mistake. Nothing is written for a volume that is about to be deleted.

    Raises:
        errors.ApiError: it could not be written.
    """
    ours = twin.consumer == consumer.cluster_id
    if not ours or (twin.handed_over and names.TWIN_FINALIZER in twin.metadata.finalizers):
        return
    fresh = await consumer.volumes.read("", volume.name)
    if fresh is None or fresh.uid != volume.uid or fate.going(fresh):
        return
    logger.warning("twin %s had lost its finalizer or its mark", twin.reference)
    await cluster.claims.patch(twin.namespace, twin.name, twins.forge_marks(twin))


async def note(
    consumer: clusters.Consumer,
    cluster: clusters.Cluster,
    volume: objects.PersistentVolume,
    twin: objects.Claim,
) -> None:
    """Bring a living twin's memory of its virtual volume up to date; free when it is.

    Raises:
        errors.ApiError: it could not be written.
    """
    if twin.consumer != consumer.cluster_id:
        return  # it lost the mark that makes it ours
    known = twin.metadata.annotations.get(names.RETAINED_ANNOTATION)
    if volume.status.phase == "Released":
        if known is None and volume.spec.persistent_volume_reclaim_policy == "Retain":
            await _remember(consumer, cluster, volume, twin)
        return
    claim = _claim_of(consumer, volume)
    if claim is None or volume.status.phase != "Bound" or not twin.claim_uid:
        return
    if claim.uid != twin.claim_uid:
        logger.info("twin %s now serves claim %s", twin.reference, claim.reference)
        await cluster.claims.patch(twin.namespace, twin.name, kept.forge_owner(twin, claim))
    elif known is not None:
        await cluster.claims.patch(twin.namespace, twin.name, kept.forge_kept(twin, None))


async def _remember(
    consumer: clusters.Consumer,
    cluster: clusters.Cluster,
    volume: objects.PersistentVolume,
    twin: objects.Claim,
) -> None:
    raw = await consumer.volumes.raw("", volume.name)
    if raw is None or raw["metadata"]["uid"] != volume.uid:
        return
    logger.info("twin %s remembers released volume %s", twin.reference, volume.name)
    patch = kept.forge_kept(twin, kept.remember(raw))
    await cluster.claims.patch(twin.namespace, twin.name, patch)


def _claim_of(
    consumer: clusters.Consumer, volume: objects.PersistentVolume
) -> objects.Claim | None:
    reference = volume.spec.claim_ref
    if reference is None:
        return None
    claim = consumer.claims.get(reference.namespace, reference.name)
    return claim if claim is not None and claim.uid == reference.uid else None
