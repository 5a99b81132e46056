"""Making a twin again that somebody deleted, without losing a byte.

The finalizer holds a deleted twin, and no deletion can be taken back. So the real volume
is set to Retain, the twin let go and made again, and the volume given to the new one: to
its uid, because one that is reserved for a name is anybody's who makes a claim of that
name. Every step looks at what is there, so that a repair that was interrupted at any
write is finished by the next.

That Retain holds is sure: before the volume controller or a provisioner reclaims a volume
it must be Released, that is a write of the very object, and one of an older version than
the one that says Retain is refused (kubernetes v1.37.2, pv_controller.go, syncVolume).
"""

from __future__ import annotations

import logging
from typing import Final

from csi_liqo.model import errors, health, names, objects, restore, twins
from csi_liqo.service.controller import clusters, description, fate, restoring

logger = logging.getLogger(__name__)

NOTE_TRIES: Final = 5
"""How often a note is tried that others came before with a write of something else."""


class Repair:
    """The use case of one virtual volume at a time; may be repeated and interrupted."""

    def __init__(self, consumer: clusters.Consumer, everywhere: clusters.Clusters) -> None:
        self._consumer = consumer
        self._clusters = everywhere

    async def repair(self, volume_name: str) -> objects.Claim:
        """Return the healthy twin of a virtual volume, made again if need be.

        Raises:
            errors.VolumeNotFoundError: there is no such virtual volume.
            errors.PreconditionError: something must be done, or granted, first.
            errors.ComeBackError: it is not finished; to repeat it goes on.
        """
        try:
            return await self._repair(volume_name)
        except (errors.ApiForbiddenError, errors.ApiInvalidError) as error:
            raise errors.PreconditionError(
                f"the repair of {volume_name} was refused: {error}. Nothing is lost. Where a right "
                "is missing in a provider, it is ClusterRole csi-liqo-consumer-repair, by "
                "ClusterRoleBinding; where a policy or a quota refuses, do what it asks for. Then "
                "repair again"
            ) from error
        except errors.ApiConflictError as error:
            raise errors.OperationPendingError(
                f"the repair of {volume_name} met a change by others ({error}); repair again"
            ) from error
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"the repair of {volume_name} was interrupted ({error}); repair again"
            ) from error

    async def _repair(self, volume_name: str) -> objects.Claim:
        volume = await self._consumer.volumes.read("", volume_name)
        if volume is None or volume.spec.csi is None:
            raise errors.VolumeNotFoundError(f"there is no virtual volume {volume_name}")
        cluster = self._home(volume)
        under_way = restore.restore_of(volume)
        reference = description.twin_of(volume)
        twin = await cluster.claims.read(reference.namespace, reference.name)
        if under_way is None or restore.outdated(under_way, twin):
            if twin is not None and twin.uid == reference.uid and not twin.deleting:
                return _well(cluster, twin)
            volume, under_way = await self._begin(cluster, volume, twin, under_way)
        return await self._go_on(cluster, volume, under_way)

    async def _go_on(
        self,
        cluster: clusters.Cluster,
        volume: objects.PersistentVolume,
        under_way: restore.Restore,
    ) -> objects.Claim:
        logger.info("repairing twin %s in cluster %s", under_way.reference, cluster.id)
        steps = restoring.Restoring(cluster, under_way)
        try:
            await steps.keep_data()
        except errors.PreconditionError as error:
            raise errors.PreconditionError(
                f"{error}. To give the data up instead, take annotation {names.RESTORE_ANNOTATION} "
                f"off PersistentVolume {volume.name}"
            ) from error
        await steps.let_go()
        twin = await steps.make_again()
        if description.twin_of(volume) != twins.TwinRef.of(twin):
            await self._consumer.volumes.patch("", volume.name, restore.forge_pointer(volume, twin))
        if under_way.real_volume:
            await steps.give_volume(twin)
            twin = await restoring.wait_until_bound(cluster, twin)
            await steps.give_policy_back(twin)
        await self._consumer.volumes.patch("", volume.name, restore.forge_end(volume))
        return twin

    def _home(self, volume: objects.PersistentVolume) -> clusters.Cluster:
        home_id = description.home_of(volume)
        cluster = self._clusters.get(home_id)
        if cluster is None or not cluster.synced:
            raise errors.OutcomeUnknownError(
                f"home cluster {home_id} of volume {volume.name} cannot be reached "
                f"({self._clusters.trouble(home_id) or 'it is not connected'})"
            )
        return cluster

    async def _begin(
        self,
        cluster: clusters.Cluster,
        volume: objects.PersistentVolume,
        twin: objects.Claim | None,
        before: restore.Restore | None,
    ) -> tuple[objects.PersistentVolume, restore.Restore]:
        """Note on the virtual volume all that the repair needs, before anything is changed."""
        reference = description.twin_of(volume)
        own_id = self._consumer.cluster_id
        if twin is not None and (twin.uid == reference.uid or before is not None):
            raw = await cluster.claims.raw(twin.namespace, twin.name)
            if raw is None or raw["metadata"]["uid"] != twin.uid:
                raise errors.OperationPendingError(f"twin {twin.reference} went; repair again")
            name = str(raw["spec"].get("volumeName", ""))
            real = await restoring.real_volume(cluster, name) if name else None
            if real is not None:
                restoring.refuse_leaving(cluster, real)
            manifest = restore.forge_successor(raw, volume, own_id)
            old_uid = twin.uid
        elif twin is not None:
            raise restoring.taken(cluster, twin, "")
        else:
            real = await self._left_behind(cluster, volume, reference)
            manifest = restore.forge_lost(volume, reference, own_id, real)
            old_uid = reference.uid
        policy = real.spec.persistent_volume_reclaim_policy if real is not None else ""
        if before is not None and before.real_volume:
            policy = before.reclaim_policy
        noted = restore.Restore(
            old_uid=old_uid,
            twin=manifest,
            real_volume=real.name if real is not None else "",
            reclaim_policy=policy,
        )
        return await self._note(volume, noted), noted

    async def _note(
        self, volume: objects.PersistentVolume, noted: restore.Restore
    ) -> objects.PersistentVolume:
        """Write the note, unless another repair of the volume did, or it is being deleted.

        The volume's version is the precondition; others write other things to it meanwhile.
        """
        first = volume.metadata.annotations.get(names.RESTORE_ANNOTATION)
        reference = description.twin_of(volume)
        for _ in range(NOTE_TRIES):
            if fate.going(volume):
                raise errors.PreconditionError(
                    f"volume {volume.name} was released and is being deleted with its data; set "
                    "its persistentVolumeReclaimPolicy to Retain to keep it"
                )
            patch = restore.forge_note(volume, noted)
            try:
                return await self._consumer.volumes.patch("", volume.name, patch)
            except errors.ApiConflictError:
                fresh = await self._consumer.volumes.read("", volume.name)
            if (
                fresh is None
                or fresh.uid != volume.uid
                or fresh.metadata.annotations.get(names.RESTORE_ANNOTATION) != first
                or description.twin_of(fresh) != reference
            ):
                break
            volume = fresh
        raise errors.OperationPendingError(
            f"volume {volume.name} is changed by others at the moment; repair again"
        )

    async def _left_behind(
        self,
        cluster: clusters.Cluster,
        volume: objects.PersistentVolume,
        reference: twins.TwinRef,
    ) -> objects.PersistentVolume:
        """Return the real volume that a twin left behind when its finalizer was taken off."""
        for real in restoring.volumes_of(cluster).select(clusters.BY_CLAIM_UID, reference.uid):
            if not real.deleting:
                return real
        raise errors.PreconditionError(
            f"twin {reference.namespace}/{reference.name} of volume {volume.name} is gone, and no "
            f"real volume in cluster {cluster.id} is left of it: its data was deleted with it, by "
            f"whoever took its finalizer {names.TWIN_FINALIZER} off. Restore the data from a backup"
        )


def _well(cluster: clusters.Cluster, twin: objects.Claim) -> objects.Claim:
    if twin.status.phase == "Lost":
        gone = fate.Fate(cluster, twins.TwinRef.of(twin), twin, health.Health.LOST)
        raise errors.PreconditionError(f"{gone}; restore it, or the data from a backup")
    return twin
