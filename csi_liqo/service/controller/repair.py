"""Making a twin again that somebody deleted, without losing a byte.

The finalizer holds a deleted twin, and no deletion can be taken back. So the real volume
is set to Retain, the twin let go, the volume reserved for its name, and the twin made
again bound to it. Every step looks at what is there, so that a repair that was
interrupted at any write is finished by the next.

That Retain holds is sure: before the volume controller or a provisioner reclaims a volume
it must be Released, that is a write of the very object, and one of an older version than
the one that says Retain is refused (kubernetes v1.37.2, pv_controller.go, syncVolume).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from csi_liqo.model import errors, health, names, objects, restore, twins
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters, description, fate

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 5.0
"""How long Kubernetes may take to see that no pod uses a deleted twin."""


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
        except errors.ApiForbiddenError as error:
            raise errors.PreconditionError(
                f"the repair of {volume_name} needs a right that is not granted ({error}); in a "
                "provider it is ClusterRole csi-liqo-consumer-repair, by ClusterRoleBinding. "
                "Nothing is lost: grant it and repair again"
            ) from error
        except (errors.ApiConflictError, errors.ApiInvalidError) as error:
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
        if under_way is None or _deleted_again(under_way, twin):
            if twin is not None and twin.uid == reference.uid and not twin.deleting:
                return _well(cluster, twin)
            if fate.going(volume):
                raise errors.PreconditionError(
                    f"volume {volume_name} was released and is being deleted with its data; set "
                    "its persistentVolumeReclaimPolicy to Retain to keep it"
                )
            under_way = await self._begin(cluster, volume, reference, twin, under_way)
        return await self._go_on(cluster, volume, under_way)

    async def _go_on(
        self,
        cluster: clusters.Cluster,
        volume: objects.PersistentVolume,
        under_way: restore.Restore,
    ) -> objects.Claim:
        logger.info("repairing twin %s in cluster %s", under_way.reference, cluster.id)
        if under_way.real_volume:
            await self._keep_data(cluster, under_way)
        await self._let_go(cluster, under_way)
        if under_way.real_volume:
            await self._reserve(cluster, under_way)
        twin = await self._make_again(cluster, under_way)
        if description.twin_of(volume) != twins.TwinRef.of(twin):
            await self._consumer.volumes.patch("", volume.name, restore.forge_pointer(volume, twin))
        if under_way.real_volume:
            twin = await _wait_until_bound(cluster, twin)
            await self._give_policy_back(cluster, under_way, twin)
        await self._consumer.volumes.patch("", volume.name, restore.forge_note(volume, None))
        return twin

    def _home(self, volume: objects.PersistentVolume) -> clusters.Cluster:
        home_id = description.home_of(volume)
        cluster = self._clusters.get(home_id)
        if cluster is None or not cluster.claims.synced:
            raise errors.OutcomeUnknownError(
                f"home cluster {home_id} of volume {volume.name} cannot be reached "
                f"({self._clusters.trouble(home_id) or 'it is not connected'})"
            )
        return cluster

    async def _begin(
        self,
        cluster: clusters.Cluster,
        volume: objects.PersistentVolume,
        reference: twins.TwinRef,
        twin: objects.Claim | None,
        before: restore.Restore | None,
    ) -> restore.Restore:
        """Note on the virtual volume all that the repair needs, before anything is changed."""
        if twin is not None and (twin.uid == reference.uid or before is not None):
            raw = await cluster.claims.raw(twin.namespace, twin.name)
            if raw is None or raw["metadata"]["uid"] != twin.uid:
                raise errors.OperationPendingError(f"twin {twin.reference} went; repair again")
            real = await self._real_volume(cluster, twin.spec.volume_name)
            manifest, old_uid = restore.forge_successor(raw), twin.uid
        else:
            real = await self._left_behind(cluster, volume, reference)
            own_id = self._consumer.cluster_id
            manifest = restore.forge_lost(volume, reference, own_id, real)
            old_uid = reference.uid
        policy = real.spec.persistent_volume_reclaim_policy if real is not None else ""
        if before is not None:
            policy = before.reclaim_policy
        noted = restore.Restore(
            old_uid=old_uid,
            twin=manifest,
            real_volume=real.name if real is not None else "",
            reclaim_policy=policy,
        )
        await self._consumer.volumes.patch("", volume.name, restore.forge_note(volume, noted))
        return noted

    async def _real_volume(
        self, cluster: clusters.Cluster, name: str
    ) -> objects.PersistentVolume | None:
        """Return the real volume of a twin that is there; None when it never had one."""
        if not name:
            return None
        real = await _volumes_of(cluster).read("", name)
        if real is None:
            raise errors.PreconditionError(
                f"real volume {name} in cluster {cluster.id} is gone, and its data with it; "
                "restore the data from a backup into a new volume"
            )
        return real

    async def _left_behind(
        self,
        cluster: clusters.Cluster,
        volume: objects.PersistentVolume,
        reference: twins.TwinRef,
    ) -> objects.PersistentVolume:
        """Return the real volume that a twin left behind when its finalizer was taken off."""
        for real in _volumes_of(cluster).select(clusters.BY_CLAIM_UID, reference.uid):
            if not real.deleting:
                return real
        raise errors.PreconditionError(
            f"twin {reference.namespace}/{reference.name} of volume {volume.name} is gone, and no "
            f"real volume in cluster {cluster.id} is left of it: its data was deleted with it, by "
            f"whoever took its finalizer {names.TWIN_FINALIZER} off. Restore the data from a backup"
        )

    async def _keep_data(self, cluster: clusters.Cluster, under_way: restore.Restore) -> None:
        """Set the real volume to Retain, as long as it is the old twin's."""
        real = await self._real_volume(cluster, under_way.real_volume)
        assert real is not None
        owner = real.spec.claim_ref
        if owner is None or owner.uid != under_way.old_uid:
            return  # reserved or bound again already
        if real.spec.persistent_volume_reclaim_policy != "Retain":
            patch = restore.forge_policy(real, "Retain")
            await _volumes_of(cluster).patch("", real.name, patch)

    async def _let_go(self, cluster: clusters.Cluster, under_way: restore.Restore) -> None:
        """Take our finalizer off the deleted twin, and wait until it is gone."""
        twin = await cluster.claims.read(under_way.namespace, under_way.name)
        if twin is None or twin.uid != under_way.old_uid:
            return
        twin = await _wait_until_unused(cluster, twin)
        if names.TWIN_FINALIZER in twin.metadata.finalizers:
            patch = twins.forge_release(twin, names.TWIN_FINALIZER)
            await cluster.claims.patch(twin.namespace, twin.name, patch)

        def gone(found: objects.Claim | None) -> bool | None:
            return found is None or found.uid != under_way.old_uid or None

        await cluster.claims.wait(under_way.namespace, under_way.name, gone)

    async def _reserve(self, cluster: clusters.Cluster, under_way: restore.Restore) -> None:
        real = await self._real_volume(cluster, under_way.real_volume)
        assert real is not None
        owner = real.spec.claim_ref
        if owner is not None and owner.uid == under_way.old_uid:
            patch = restore.forge_reservation(real, under_way.namespace, under_way.name)
            await _volumes_of(cluster).patch("", real.name, patch)

    async def _make_again(
        self, cluster: clusters.Cluster, under_way: restore.Restore
    ) -> objects.Claim:
        try:
            return await cluster.claims.create(under_way.namespace, under_way.twin)
        except errors.ApiAlreadyExistsError:
            twin = await cluster.claims.read(under_way.namespace, under_way.name)
        if twin is None or twin.deleting:
            raise errors.OperationPendingError(
                f"twin {under_way.reference} was deleted again; find out by whom, and repair again"
            )
        wanted = under_way.twin["metadata"]["labels"]
        same = all(twin.metadata.labels.get(key) == value for key, value in wanted.items())
        if not same or twin.spec.volume_name != under_way.twin["spec"].get("volumeName", ""):
            raise errors.PreconditionError(
                f"the name {under_way.reference} in cluster {cluster.id} was taken meanwhile by a "
                f"claim that is not this volume's; its data is kept in {under_way.real_volume}. "
                "Move that claim out of the way, and repair again"
            )
        return twin

    async def _give_policy_back(
        self, cluster: clusters.Cluster, under_way: restore.Restore, twin: objects.Claim
    ) -> None:
        real = await self._real_volume(cluster, under_way.real_volume)
        assert real is not None
        owner, policy = real.spec.claim_ref, under_way.reclaim_policy
        ours = owner is not None and owner.uid == twin.uid
        if ours and policy and real.spec.persistent_volume_reclaim_policy != policy:
            await _volumes_of(cluster).patch("", real.name, restore.forge_policy(real, policy))


def _deleted_again(under_way: restore.Restore, twin: objects.Claim | None) -> bool:
    """Whether the twin that a repair made was deleted before the repair came to its end."""
    return twin is not None and twin.deleting and twin.uid != under_way.old_uid


def _well(cluster: clusters.Cluster, twin: objects.Claim) -> objects.Claim:
    if twin.status.phase == "Lost":
        gone = fate.Fate(cluster, twins.TwinRef.of(twin), twin, health.Health.LOST)
        raise errors.PreconditionError(f"{gone}; restore it, or the data from a backup")
    return twin


def _volumes_of(cluster: clusters.Cluster) -> ports.Objects[objects.PersistentVolume]:
    if cluster.volumes is None:
        raise errors.PreconditionError(
            f"cluster {cluster.id} does not let its volumes be read, which a repair needs; grant "
            "ClusterRoles csi-liqo-consumer-volumes and csi-liqo-consumer-repair there by "
            "ClusterRoleBinding, and repair again. Nothing is lost meanwhile"
        )
    return cluster.volumes


async def _wait_until_unused(cluster: clusters.Cluster, twin: objects.Claim) -> objects.Claim:
    """Give others a moment to take their finalizers off: Kubernetes' own needs one.

    Raises:
        errors.PreconditionError: pods use the twin.
    """
    others: list[str] = []

    def unused(found: objects.Claim | None) -> objects.Claim | None:
        nonlocal others
        if found is None or found.uid != twin.uid:
            return twin
        others = [f for f in found.metadata.finalizers if f != names.TWIN_FINALIZER]
        return None if others else found

    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            return await cluster.claims.wait(twin.namespace, twin.name, unused)
    except TimeoutError:
        raise errors.PreconditionError(
            f"twin {twin.reference} in cluster {cluster.id} is still used ({', '.join(others)}); "
            "its data is safe. Delete the pods that use it, keep new ones away until the repair is "
            "done, and repair again"
        ) from None


async def _wait_until_bound(cluster: clusters.Cluster, twin: objects.Claim) -> objects.Claim:
    seen = False

    def bound(found: objects.Claim | None) -> objects.Claim | None:
        nonlocal seen
        if found is not None and found.uid == twin.uid:
            seen = True
            return found if found.bound else None
        if seen:
            raise errors.OperationPendingError(
                f"twin {twin.reference} was deleted again; find out by whom, and repair again"
            )
        return None

    return await cluster.claims.wait(twin.namespace, twin.name, bound)
