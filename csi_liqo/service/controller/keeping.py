"""Keeping on a twin what would be lost with its virtual volume.

Reclaim policy Retain lets a virtual volume be deleted by hand and its twin stay. What the
volume was is written onto the twin as soon as the volume is released, which no event can
be missed of: a released volume waits for its administrator.
"""

from __future__ import annotations

import logging

from csi_liqo.model import kept, names, objects
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)


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
