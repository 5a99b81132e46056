"""The steps of making a twin again: each looks at what is there, and does only what is left.

From the first to the last, the real volume belongs to one twin, by its uid, and is kept by
its reclaim policy: one that is merely reserved for a name is anybody's who makes a claim of
that name.
"""

from __future__ import annotations

import asyncio
from typing import Final

from csi_liqo.model import errors, names, objects, restore, twins
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters, ending

SETTLE_SECONDS: Final = 5.0
"""How long Kubernetes may take to see that no pod uses a deleted twin."""
BIND_SECONDS: Final = 60.0
"""How long it may take to bind a twin to the volume that it names."""


class Restoring:
    """A repair that was noted, carried out in the volume's home cluster, step by step."""

    def __init__(self, cluster: clusters.Cluster, noted: restore.Restore) -> None:
        self._cluster = cluster
        self._noted = noted

    async def keep_data(self) -> None:
        """Set the real volume to Retain.

        Raises:
            errors.PreconditionError: name or volume are somebody else's; nothing was changed.
        """
        noted = self._noted
        twin = await self._cluster.claims.read(noted.namespace, noted.name)
        successor = twin if twin is not None and twin.uid != noted.old_uid else None
        if successor is not None and not restore.is_successor(noted, successor):
            raise taken(self._cluster, successor, noted.real_volume)
        if not noted.real_volume:
            return
        real = await real_volume(self._cluster, noted.real_volume)
        owner = real.spec.claim_ref
        if owner is None or (successor is not None and owner.uid == successor.uid):
            return
        self._refuse_foreign(real, owner)
        refuse_leaving(self._cluster, real)
        if real.spec.persistent_volume_reclaim_policy != "Retain":
            patch = restore.forge_policy(real, "Retain")
            await volumes_of(self._cluster).patch("", real.name, patch)

    def _refuse_foreign(
        self, real: objects.PersistentVolume, owner: objects.ClaimReference
    ) -> None:
        """Raise if a real volume is of a claim of another name.

        Of that name it is a twin's: of the deleted one, or of one that was made again before.
        """
        if (owner.namespace, owner.name) == (self._noted.namespace, self._noted.name):
            return
        raise errors.PreconditionError(
            f"real volume {real.name} in cluster {self._cluster.id} belongs to claim "
            f"{owner.namespace}/{owner.name} now; find out why, and take it from that claim before "
            "you repair again"
        )

    async def let_go(self) -> None:
        """Take our finalizer off the deleted twin, and wait until it is gone.

        Raises:
            errors.PreconditionError: pods use it; its data is kept already.
        """
        noted, claims = self._noted, self._cluster.claims
        twin = await claims.read(noted.namespace, noted.name)
        if twin is None or twin.uid != noted.old_uid:
            return
        if not twin.deleting:
            raise errors.PreconditionError(
                f"twin {twin.reference} in cluster {self._cluster.id} is not deleted; take "
                f"annotation {names.RESTORE_ANNOTATION} off its virtual volume"
            )
        twin = await _wait_until_unused(self._cluster, twin)
        if twin.spec.volume_name != noted.real_volume:
            raise errors.OperationPendingError(f"twin {twin.reference} changed; repair again")
        if names.TWIN_FINALIZER in twin.metadata.finalizers:
            twin = await ending.open_fence(self._cluster, twin)
            patch = [twins.forge_version_test(twin)]
            patch += twins.forge_release(twin, names.TWIN_FINALIZER)
            await claims.patch(twin.namespace, twin.name, patch)
        await ending.wait_until_gone(self._cluster, twin)

    async def make_again(self) -> objects.Claim:
        """Return the twin that follows, made if it is not there.

        Raises:
            errors.PreconditionError: a foreign claim has its name.
            errors.OperationPendingError: somebody deleted it again.
        """
        noted = self._noted
        try:
            return await self._cluster.claims.create(noted.namespace, noted.twin)
        except errors.ApiAlreadyExistsError:
            twin = await self._cluster.claims.read(noted.namespace, noted.name)
        except errors.ApiNotFoundError as error:
            raise errors.PreconditionError(
                f"twin {noted.reference} in cluster {self._cluster.id} cannot be made again: "
                f"{error}. Make that namespace again, and repair again"
            ) from error
        if twin is None or twin.deleting:
            raise _deleted_again(noted.reference)
        if not restore.is_successor(noted, twin):
            raise taken(self._cluster, twin, noted.real_volume)
        return twin

    async def give_volume(self, twin: objects.Claim) -> None:
        """Have the real volume name the new twin, and the volume controller look at that twin.

        A claim that asks for the volume of another is looked at again only after a while, or
        when it changes (kubernetes v1.37.2, pv_controller.go, syncUnboundClaim).
        """
        real = await real_volume(self._cluster, self._noted.real_volume)
        owner = real.spec.claim_ref
        if owner is None or owner.uid != twin.uid:
            if owner is not None:
                self._refuse_foreign(real, owner)
            patch = restore.forge_reservation(real, twin)
            await volumes_of(self._cluster).patch("", real.name, patch)
        if not twin.bound:
            touch = restore.forge_succession(self._noted, twin)
            await self._cluster.claims.patch(twin.namespace, twin.name, touch)

    async def give_policy_back(self, twin: objects.Claim) -> None:
        """Let the real volume have the reclaim policy that it had, once the twin has it."""
        real = await real_volume(self._cluster, self._noted.real_volume)
        owner, policy = real.spec.claim_ref, self._noted.reclaim_policy
        ours = owner is not None and owner.uid == twin.uid
        if ours and policy and real.spec.persistent_volume_reclaim_policy != policy:
            patch = restore.forge_policy(real, policy)
            await volumes_of(self._cluster).patch("", real.name, patch)


async def real_volume(cluster: clusters.Cluster, name: str) -> objects.PersistentVolume:
    """Return a real volume as its API server has it.

    Raises:
        errors.PreconditionError: it is gone, or may not be read.
    """
    real = await volumes_of(cluster).read("", name)
    if real is None:
        raise errors.PreconditionError(
            f"real volume {name} in cluster {cluster.id} is gone, and its data with it; "
            "restore the data from a backup into a new volume"
        )
    return real


def refuse_leaving(cluster: clusters.Cluster, real: objects.PersistentVolume) -> None:
    """Raise if a real volume goes with its twin whatever its reclaim policy is.

    Raises:
        errors.PreconditionError: it is being deleted itself.
    """
    if real.deleting:
        raise errors.PreconditionError(
            f"real volume {real.name} in cluster {cluster.id} is being deleted, too, and goes as "
            "soon as the twin lets it; copy its data before anything else"
        )


def volumes_of(cluster: clusters.Cluster) -> ports.Objects[objects.PersistentVolume]:
    """Return a cluster's volumes.

    Raises:
        errors.PreconditionError: they may not be read.
    """
    if cluster.volumes is None:
        raise errors.PreconditionError(
            f"cluster {cluster.id} does not let its volumes be read, which a repair needs; grant "
            "ClusterRoles csi-liqo-consumer-volumes and csi-liqo-consumer-repair there by "
            "ClusterRoleBinding, and repair again. Nothing is lost meanwhile"
        )
    return cluster.volumes


def taken(cluster: clusters.Cluster, claim: objects.Claim, real_name: str) -> errors.Error:
    """Say that a foreign claim has the twin's name."""
    kept = f"; its data is kept in {real_name}" if real_name else ""
    return errors.PreconditionError(
        f"the name {claim.reference} in cluster {cluster.id} was taken meanwhile by a claim that "
        f"is not this volume's{kept}. Move that claim out of the way, and repair again"
    )


def _deleted_again(reference: str) -> errors.Error:
    return errors.OperationPendingError(
        f"twin {reference} was deleted again; find out by whom, and repair again"
    )


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
        return None if others or not found.deleting else found

    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            return await cluster.claims.wait(twin.namespace, twin.name, unused)
    except TimeoutError:
        raise errors.PreconditionError(
            f"twin {twin.reference} in cluster {cluster.id} is still used ({', '.join(others)}); "
            "its data is safe. Delete the pods that use it, keep new ones away until the repair is "
            "done, and repair again"
        ) from None


async def wait_until_bound(cluster: clusters.Cluster, twin: objects.Claim) -> objects.Claim:
    """Return a twin once it is bound.

    Raises:
        errors.OperationPendingError: somebody deleted it, or it takes too long.
    """
    seen = False

    def bound(found: objects.Claim | None) -> objects.Claim | None:
        nonlocal seen
        if found is not None and found.uid == twin.uid:
            seen = True
            return found if found.bound else None
        if seen:
            raise _deleted_again(twin.reference)
        return None

    try:
        async with asyncio.timeout(BIND_SECONDS):
            return await cluster.claims.wait(twin.namespace, twin.name, bound)
    except TimeoutError:
        raise errors.OperationPendingError(
            f"twin {twin.reference} in cluster {cluster.id} was made again and is not bound to its "
            f"volume {twin.spec.volume_name} yet; its data is safe. See what is said of it there "
            "(kubectl describe pvc), and repair again"
        ) from None
