"""How a twin ends, once somebody has decided that it may: writes, and waiting for what they do.

Whoever is entitled to decide is not known here; nothing is written without a precondition.
"""

from __future__ import annotations

from typing import Final

from csi_liqo.model import names, objects, twins
from csi_liqo.service.controller import clusters

REMEMBERED: Final = 1000
"""Twins that this process saw end; more than csi-provisioner ever has calls for at once."""


class Ended:
    """The uids of twins that this process deleted and then saw gone, the latest of them.

    Also the ids of volumes whose own word named all of these; an id has its claim's uid.

    csi-provisioner asks for a deletion again until it sees that its own write took the volume
    away. What is here needs no second look at the API servers, ever: a uid is given once. Only
    a twin that was in the cache before may be noted, since an absence that was never a
    presence proves nothing. What is forgotten is looked up again.
    """

    def __init__(self) -> None:
        self._uids: dict[str, None] = {}

    def note(self, uid: str) -> None:
        """Remember a twin whose end was seen, and whose real volume's was, where it can be."""
        self._uids[uid] = None
        while len(self._uids) > REMEMBERED:
            del self._uids[next(iter(self._uids))]

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids


async def unprotect_and_delete(
    cluster: clusters.Cluster, twin: objects.Claim, *, holds_data: bool
) -> None:
    """Take our finalizer off, then delete.

    A twin that must not hold data goes only in the very version that was looked at,
    because handing it over would be another version.

    Raises:
        errors.ApiConflictError: it is another one, or another version, by now.
        errors.ApiError: the API server refused, or did not answer.
    """
    if names.TWIN_FINALIZER in twin.metadata.finalizers:
        patch = twins.forge_release(twin, names.TWIN_FINALIZER)
        if not holds_data:
            patch.insert(0, twins.forge_version_test(twin))
        twin = await cluster.claims.patch(twin.namespace, twin.name, patch)
    if not twin.deleting:
        version = "" if holds_data else twin.metadata.resource_version
        await cluster.claims.delete(
            twin.namespace, twin.name, uid=twin.uid, resource_version=version
        )


async def open_fence(cluster: clusters.Cluster, twin: objects.Claim) -> objects.Claim:
    """Let a person's command take a local twin away: the fence keeps all but the driver out.

    Raises:
        errors.ApiError: it could not be opened.
    """
    if not cluster.local or twin.metadata.labels.get(names.FENCE_LABEL) == names.FENCE_OPEN:
        return twin
    return await cluster.claims.patch(twin.namespace, twin.name, twins.forge_open_fence(twin))


async def wait_until_gone(cluster: clusters.Cluster, twin: objects.Claim) -> None:
    """Wait until exactly this twin is gone."""

    def gone(found: objects.Claim | None) -> bool | None:
        return found is None or found.uid != twin.uid or None

    await cluster.claims.wait(twin.namespace, twin.name, gone)


async def wait_until_unbound(cluster: clusters.Cluster, twin_uid: str) -> None:
    """Wait until no real volume that is to be deleted is left of a twin.

    One whose own policy is Retain stays by its administrator's choice. Where volumes
    may not be read, the twin's end has to do.
    """
    if cluster.volumes is None:
        return

    for volume in cluster.volumes.select(clusters.BY_CLAIM_UID, twin_uid):

        def gone(found: objects.PersistentVolume | None, uid: str = volume.uid) -> bool | None:
            kept = found is not None and found.spec.persistent_volume_reclaim_policy != "Delete"
            return found is None or found.uid != uid or kept or None

        await cluster.volumes.wait("", volume.name, gone)
