"""Deleting, on command, a twin that nobody uses any more.

The only way but DeleteVolume by which a twin that may hold data goes. It asks the API
servers themselves whether really nobody uses it.
"""

from __future__ import annotations

import logging

from csi_liqo.model import errors, kept, objects
from csi_liqo.service.controller import adoption, clusters, description, ending, inventory
from csi_liqo.service.controller import twins as twin_service

logger = logging.getLogger(__name__)


class Disposal:
    """The use case; to repeat it is harmless, and an interrupted one goes on."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        adopting: adoption.Adoption,
        listed: inventory.Inventory,
        made: twin_service.Twins,
    ) -> None:
        self._consumer = consumer
        self._adoption = adopting
        self._inventory = listed
        self._twins = made

    async def delete(self, wish: adoption.Wish, *, uid: str) -> None:
        """Delete an abandoned or retained twin with its data; return once it is gone.

        ``uid`` is that of the twin that the person saw listed.

        Raises:
            errors.PreconditionError: it is another twin, not ours, or somebody uses it.
            errors.ComeBackError: it is not gone yet, or its cluster is out of reach.
        """
        try:
            cluster, twin = await self._adoption.find(wish)
        except errors.VolumeNotFoundError:
            return
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(f"twin {wish.reference}: {error}") from error
        if twin.uid != uid:
            raise errors.PreconditionError(
                f"twin {wish.reference} in cluster {cluster.id} is another one now; list again"
            )
        entry = self._inventory.entry(cluster, twin)
        if entry.volume is not None:
            raise errors.PreconditionError(
                f"twin {wish.reference} belongs to PersistentVolume {entry.volume.name}; delete "
                "that one and its claim first"
            )
        if entry.state is inventory.State.IN_USE or await self._claimed(cluster, twin):
            raise errors.PreconditionError(
                f"twin {wish.reference} belongs to claim {entry.claim}; delete that one instead"
            )
        logger.info("deleting %s twin %s on command", entry.state.value, twin.reference)
        try:
            twin = await ending.open_fence(cluster, twin)
            await self._twins.release(cluster, twin)
        except errors.ApiNotFoundError:
            return
        except errors.Error as error:
            meaning = _meaning(wish, error)
            if meaning is error:
                raise
            raise meaning from error

    async def _claimed(self, cluster: clusters.Cluster, twin: objects.Claim) -> bool:
        """Whether claim or volume exist that the caches do not show yet.

        An adopted volume has the name that its twin remembers, any other one its id.
        """
        namespace, _, name = inventory.claim_name(twin).partition("/")
        try:
            claim = await self._consumer.claims.read(namespace, name) if name else None
            bound_to = ""
            if claim is not None and claim.uid == twin.claim_uid:
                bound_to = claim.spec.volume_name
                if not bound_to:
                    return True
            memory = kept.kept_of(twin)
            known_as = {twin.volume_id, bound_to, memory.name if memory is not None else ""}
            for volume_name in filter(objects.is_object_name, known_as):
                volume = await self._consumer.volumes.read("", volume_name)
                if volume is not None and _may_name(volume, cluster, twin):
                    return True
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"whether twin {twin.reference} is in use is not known: {error}"
            ) from error
        return False


def _may_name(
    volume: objects.PersistentVolume, cluster: clusters.Cluster, twin: objects.Claim
) -> bool:
    """Whether a volume names this twin, or cannot be read: then nothing is deleted."""
    try:
        description.twin_of(volume)
    except errors.InvalidRequestError:
        return True
    return description.names_twin(volume, cluster, twin)


def _meaning(wish: adoption.Wish, error: errors.Error) -> errors.Error:
    """Tell a refusal, which somebody must do something about, from what time heals."""
    refused = (errors.ApiForbiddenError, errors.ApiInvalidError)
    if isinstance(error, refused) or isinstance(error.__cause__, refused):
        return errors.PreconditionError(
            f"deleting twin {wish.reference} was refused: {error}. Do what is asked for there, or "
            "get the right that is missing, and delete it again"
        )
    if isinstance(error, errors.ApiError):
        return errors.OutcomeUnknownError(f"twin {wish.reference}: {error}; delete it again")
    return error
