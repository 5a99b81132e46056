"""Making, judging, marking and removing twins, the same in every cluster.

A twin is created under a deterministic name and compared when the name is taken,
so a repeated, interrupted or doubled call ends at the same one. What is not ours
is never adopted, changed or deleted. What was handed over may hold data, and is
removed only by ``release``, which DeleteVolume alone calls.
"""

from __future__ import annotations

import enum
import logging

from csi_liqo.model import errors, labelling, names, objects, quantities, twins
from csi_liqo.service.controller import clusters, description, ending, static

logger = logging.getLogger(__name__)


class _Verdict(enum.Enum):
    """What a claim found under a twin's name is to the volume that wants the name."""

    SAME = "the volume's own twin"
    OUTDATED = "the volume's own, asked for differently and never handed over"
    LEFTOVER = "of an earlier claim, never handed over"
    LEAVING = "ours, going away"


class Twins:
    """The twins of one consumer."""

    def __init__(self, consumer: clusters.Consumer, rules: labelling.Rules | None = None) -> None:
        """``rules`` say which labels and annotations a twin gets from its claim."""
        self._consumer = consumer
        self._rules = rules or labelling.Rules()

    async def ensure(self, cluster: clusters.Cluster, spec: twins.TwinSpec) -> objects.Claim:
        """Return the volume's twin, created if need be.

        Waits for as long as an earlier twin of that name takes to go away.

        Raises:
            errors.PlacementError: the name is taken by what is not this volume's, or the
                cluster refuses; nothing of the volume is there.
            errors.IncompatibleVolumeError: the volume exists and was asked for differently.
            errors.ComeBackError: the outcome is not known, or not reached.
        """
        while True:
            twin = cluster.claims.get(spec.namespace, spec.name)
            if twin is None:
                twin = await self._create(cluster, spec)
            if twin is None:
                continue  # it vanished between the refusal and the look at it
            match self._judge(cluster, spec, twin):
                case _Verdict.SAME:
                    return twin
                case _Verdict.LEAVING:
                    await self._let_go(cluster, twin)
                case _Verdict.OUTDATED | _Verdict.LEFTOVER:
                    if await self.serves(cluster, twin):
                        raise self._taken(cluster, twin)
                    await self.discard(cluster, twin)

    async def _create(
        self, cluster: clusters.Cluster, spec: twins.TwinSpec
    ) -> objects.Claim | None:
        try:
            twin = await cluster.claims.create(spec.namespace, twins.forge_twin(spec, self._rules))
        except errors.ApiAlreadyExistsError:
            return await cluster.claims.read(spec.namespace, spec.name)
        except errors.ApiUnavailableError as error:
            raise errors.OutcomeUnknownError(
                f"twin {spec.reference} in cluster {cluster.id} may exist: {error}"
            ) from error
        except errors.ApiError as error:
            return await self._refused(cluster, spec, error)
        logger.info("created twin %s in cluster %s", twin.reference, cluster.id)
        return twin

    async def _refused(
        self, cluster: clusters.Cluster, spec: twins.TwinSpec, error: errors.ApiError
    ) -> objects.Claim | None:
        """A quota refuses before the API server sees that the name is taken: look."""
        try:
            twin = await cluster.claims.read(spec.namespace, spec.name)
        except errors.ApiForbiddenError:
            twin = None  # no rights there at all, so this call has written nothing
        except errors.ApiError as unread:
            raise errors.OutcomeUnknownError(
                f"twin {spec.reference} in cluster {cluster.id} may exist: {error}; {unread}"
            ) from error
        if twin is not None:
            return twin
        text = f"cluster {cluster.id} refuses twin {spec.reference}: {error}"
        if cluster.local and isinstance(error, errors.ApiNotFoundError):
            raise errors.PreconditionError(
                f"namespace {spec.namespace}, where local twins live, does not exist; "
                "install the driver's manifests again"
            ) from error
        raise errors.PlacementError(text) from error

    def _judge(
        self, cluster: clusters.Cluster, spec: twins.TwinSpec, twin: objects.Claim
    ) -> _Verdict:
        if twin.consumer != spec.consumer_id or not twin.volume_id:
            raise errors.PlacementError(
                f"a claim {twin.reference} that this driver did not make for cluster "
                f"{spec.consumer_id} exists in cluster {cluster.id}; rename the virtual claim, or "
                "move that one out of the way"
            )
        if twin.volume_id == spec.volume_id and twin.claim_uid == spec.claim_uid:
            return _judge_own(cluster, spec, twin)
        if twin.deleting:
            return _Verdict.LEAVING
        if twin.handed_over:
            raise self._taken(cluster, twin)
        if spec.claim is None or self._owner_lives(spec.claim, twin):
            raise errors.PlacementError(
                f"the name {twin.reference} in cluster {cluster.id} belongs to the twin of "
                f"another claim, {twin.metadata.annotations.get(names.CLAIM_ANNOTATION)}; "
                "map the two namespaces to different ones"
            )
        return _Verdict.LEFTOVER

    def _owner_lives(self, claim: objects.Claim, twin: objects.Claim) -> bool:
        """Whether the claim that a twin was made for may still exist.

        One of the same name as ``claim`` and another uid is gone for certain.
        """
        owner = twin.metadata.annotations.get(names.CLAIM_ANNOTATION, "")
        if owner == claim.reference:
            return False
        namespace, _, name = owner.partition("/")
        living = self._consumer.claims.get(namespace, name)
        return living is not None and living.uid == twin.claim_uid

    def _taken(self, cluster: clusters.Cluster, twin: objects.Claim) -> errors.Error:
        """Tell why a twin that was handed over to another claim keeps its name."""
        volumes = self._consumer.volumes.select(clusters.BY_HANDLE, twin.volume_id)
        if any(v.spec.persistent_volume_reclaim_policy == "Delete" for v in volumes):
            return errors.OperationPendingError(
                f"twin {twin.reference} in cluster {cluster.id} still belongs to the previous "
                f"volume {twin.volume_id}, which has not been deleted yet"
            )
        return errors.PlacementError(
            f"the name {twin.reference} in cluster {cluster.id} is kept by the retained data of "
            f"volume {twin.volume_id}; give a claim that data with csi-liqo adopt, use another "
            "claim name, or delete that twin after taking off its finalizer "
            f"{names.TWIN_FINALIZER} if its data is not wanted"
        )

    async def hand_over(self, cluster: clusters.Cluster, twin: objects.Claim) -> None:
        """Mark a twin as one that may hold data. To repeat it is harmless and free.

        Raises:
            errors.ComeBackError: it is not known to be marked.
        """
        if twin.handed_over:
            return
        try:
            await cluster.claims.patch(twin.namespace, twin.name, twins.forge_handover(twin))
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"twin {twin.reference} in cluster {cluster.id} could not be marked: {error}"
            ) from error

    async def serves(self, cluster: clusters.Cluster, twin: objects.Claim) -> bool:
        """Tell whether a virtual volume names a twin, which then holds data whatever its marks.

        Who may write claims in a provider can take marks off; nobody there can write volumes
        here. The API server is asked, as the cache may be behind.

        Raises:
            errors.OutcomeUnknownError: the API server did not say.
        """
        known = self._consumer.volumes.select(clusters.BY_HANDLE, twin.volume_id)
        try:
            # A volume of another installation here is in no index, and has the id as its name.
            read = await self._consumer.volumes.read("", twin.volume_id)
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"whether twin {twin.reference} is in use is not known: {error}"
            ) from error
        found = known if read is None else (*known, read)
        return any(description.names_twin(volume, cluster, twin) for volume in found)

    async def discard(self, cluster: clusters.Cluster, twin: objects.Claim) -> None:
        """Remove a twin that was never handed over, and wait until it is gone.

        Its version is a precondition, so one that is handed over meanwhile stays; and so does
        one that a virtual volume names.

        Raises:
            errors.ComeBackError: it is not gone yet.
        """
        if await self.serves(cluster, twin):
            raise errors.OperationPendingError(
                f"twin {twin.reference} in cluster {cluster.id} has lost annotation "
                f"{names.HANDED_OVER_ANNOTATION}, but is that of volume {twin.volume_id}; it stays"
            )
        logger.info("discarding twin %s in cluster %s", twin.reference, cluster.id)
        await self._remove(cluster, twin, holds_data=False)
        await ending.wait_until_gone(cluster, twin)
        if cluster.local and cluster.volumes is not None:
            await static.unbind(cluster.volumes, twin.uid)
            await ending.wait_until_unbound(cluster, twin.uid)

    async def release(self, cluster: clusters.Cluster, twin: objects.Claim) -> None:
        """Remove a twin with its data, and wait until it is gone.

        The finalizer goes first, while nobody else writes to the object; what is left if
        this is interrupted is a twin without it that the next call deletes.

        Raises:
            errors.ComeBackError: it is not gone yet.
        """
        logger.info("deleting twin %s in cluster %s", twin.reference, cluster.id)
        await self._remove(cluster, twin, holds_data=True)
        await ending.wait_until_gone(cluster, twin)
        await ending.wait_until_unbound(cluster, twin.uid)

    async def _let_go(self, cluster: clusters.Cluster, twin: objects.Claim) -> None:
        """Let a twin that is being deleted go, unless only DeleteVolume may, and wait."""
        if not twin.handed_over and not await self.serves(cluster, twin):
            await self._remove(cluster, twin, holds_data=False)
        await ending.wait_until_gone(cluster, twin)

    async def _remove(
        self, cluster: clusters.Cluster, twin: objects.Claim, *, holds_data: bool
    ) -> None:
        """Unprotect and delete; what is in the cache may be old, so look again once."""
        try:
            try:
                await ending.unprotect_and_delete(cluster, twin, holds_data=holds_data)
            except errors.ApiConflictError:
                fresh = await cluster.claims.read(twin.namespace, twin.name)
                if fresh is None or fresh.uid != twin.uid:
                    return
                if fresh.handed_over and not holds_data:
                    raise
                await ending.unprotect_and_delete(cluster, fresh, holds_data=holds_data)
        except errors.ApiNotFoundError:
            return
        except errors.ApiConflictError as error:
            raise errors.OperationPendingError(
                f"twin {twin.reference} in cluster {cluster.id} changed meanwhile: {error}"
            ) from error
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"twin {twin.reference} in cluster {cluster.id} may still exist: {error}"
            ) from error


def _judge_own(cluster: clusters.Cluster, spec: twins.TwinSpec, twin: objects.Claim) -> _Verdict:
    """Compare a volume's own twin with what is wanted now."""
    if twin.deleting:
        return _Verdict.LEAVING
    same_size = _size_of(twin) == spec.size_bytes
    same_kind = twin.spec.volume_mode == spec.volume_mode and set(twin.spec.access_modes) == set(
        spec.access_modes
    )
    if not (same_size and same_kind):
        raise errors.IncompatibleVolumeError(
            f"volume {spec.volume_id} exists as {twin.reference} in cluster {cluster.id} with "
            f"{_size_of(twin)} bytes, {twin.spec.volume_mode}, {','.join(twin.spec.access_modes)}"
        )
    moved = twin.selected_node != spec.selected_node or (
        twin.spec.storage_class_name != spec.class_name
    )
    return _Verdict.OUTDATED if moved and not twin.handed_over else _Verdict.SAME


def _size_of(twin: objects.Claim) -> int:
    return quantities.to_bytes(twin.spec.resources.requests.get("storage", "0"))
