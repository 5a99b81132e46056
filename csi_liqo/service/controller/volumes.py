"""Creating, deleting and checking virtual volumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from csi_liqo.model import (
    errors,
    ids,
    names,
    objects,
    topology,
    twins,
    volumes,
)
from csi_liqo.service.controller import (
    access_modes,
    attempts,
    binding,
    clusters,
    deadline,
    description,
    ending,
    in_flight,
    parameters,
    places,
)
from csi_liqo.service.controller import twins as twin_service

logger = logging.getLogger(__name__)


class Volumes:
    """The use cases behind CreateVolume, DeleteVolume and ValidateVolumeCapabilities.

    Each may be repeated, interrupted between any two writes, and run by two replicas
    at once: all end at the same twin.
    """

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        where: places.Places,
        made: twin_service.Twins,
        noted: attempts.Attempts,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._places = where
        self._twins = made
        self._attempts = noted
        self._in_flight = in_flight.InFlight()
        self._ended = ending.Ended()

    async def create(
        self, request: volumes.CreateRequest, deadline_seconds: float | None
    ) -> volumes.Volume:
        """Return the volume of that name, made if need be.

        Raises:
            errors.Error: its kind says what may be left behind; see model.errors.
        """
        given = parameters.parse(request.parameters)
        _refuse_unsupported(request)
        volume_id = ids.volume_id(request.name)
        watch = binding.Progress(f"volume {volume_id} is being made")
        end = deadline.Deadline(deadline_seconds)
        with self._in_flight.claim(volume_id):
            async with end.limit(watch.explain):
                try:
                    claim = await parameters.find_claim(self._consumer.claims, given, request.name)
                except parameters.ClaimGoneError as gone:
                    return await self._create_for_nobody(volume_id, request, gone)
                wish = places.Wish(id=volume_id, request=request, parameters=given, claim=claim)
                with in_flight.outcome_unknown_on_failure(volume_id):
                    answered = self._answered(wish)
                return answered or await self._create_somewhere(wish, watch)

    async def _create_somewhere(self, wish: places.Wish, watch: binding.Progress) -> volumes.Volume:
        """Try the segments in the order of preference; no wish means this cluster."""
        refusal: errors.PlacementError | None = None
        for segment in wish.request.requirement.candidates() or ({},):
            try:
                return await self._create_at(wish, segment, watch)
            except errors.PlacementError as error:
                logger.info("volume %s: %s", wish.id, error)
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    async def _create_at(
        self, wish: places.Wish, segment: topology.Segment, watch: binding.Progress
    ) -> volumes.Volume:
        place = await self._places.choose(wish, segment)
        with in_flight.outcome_unknown_on_failure(wish.id, honest=in_flight.FINAL):
            if wish.claim is not None and not place.cluster.local:
                await self._attempts.note(wish.claim, place.cluster.id)
            twin = await self._twins.ensure(place.cluster, place.spec)
        watch.follow(place.cluster, twin)
        with in_flight.outcome_unknown_on_failure(wish.id):
            try:
                twin = await binding.bind(place, twin)
                volume = description.describe(self._consumer, place.cluster, twin)
                _check_size(wish.request, volume)
                access_modes.refuse_pinned(twin, volume.topology)
                await self._twins.hand_over(place.cluster, twin)
            except in_flight.FINAL as error:
                if twin.handed_over:
                    raise
                refusal = await watch.with_warning(error)
                watch.doing = f"volume {wish.id} is being undone, because {refusal}"
                await self._twins.discard(place.cluster, twin)
            else:
                return volume
        raise refusal

    def _answered(self, wish: places.Wish) -> volumes.Volume | None:
        """Return the volume as an earlier call answered it, wherever the pod was sent since.

        The scheduler goes by the volume's topology, so the pod follows. Two volumes for
        one claim are what must not be.
        """
        if wish.claim is None:
            return None
        for cluster, twin in self._own_twins(wish.id):
            mine = twin.claim_uid == wish.claim.uid
            if mine and twin.handed_over and not twin.deleting:
                return description.describe(self._consumer, cluster, twin)
        return None

    async def _create_for_nobody(
        self,
        volume_id: ids.VolumeId,
        request: volumes.CreateRequest,
        gone: parameters.ClaimGoneError,
    ) -> volumes.Volume:
        """Undo what was made for a claim that is gone.

        A twin that was handed over is answered with once more: the provisioner makes
        its PersistentVolume, finds no claim, and deletes both in the ordinary way.
        """
        claim_uid = ids.claim_uid_of(request.name)
        for cluster, twin in self._own_twins(volume_id):
            if twin.claim_uid != claim_uid:
                continue
            if twin.handed_over and not twin.deleting:
                return description.describe(self._consumer, cluster, twin)
            with in_flight.outcome_unknown_on_failure(volume_id):
                await self._twins.discard(cluster, twin)
        raise errors.PreconditionError(str(gone)) from gone

    def _own_twins(self, volume_id: str) -> list[tuple[clusters.Cluster, objects.Claim]]:
        return [
            (cluster, twin)
            for cluster in self._clusters
            for twin in cluster.claims.select(clusters.BY_VOLUME, volume_id)
            if twin.consumer == self._consumer.cluster_id
        ]

    async def delete(self, volume_id: str, deadline_seconds: float | None) -> None:
        """Return once the volume and its data are gone; an unknown one is.

        Raises:
            errors.ComeBackError: it is not gone yet, or its home is out of reach.
            errors.PreconditionError: its twin lost the mark that makes it ours.
        """
        watch = binding.Progress(f"volume {volume_id} is being deleted")
        end = deadline.Deadline(deadline_seconds)
        with (
            self._in_flight.claim(volume_id),
            in_flight.outcome_unknown_on_failure(volume_id, honest=(errors.PreconditionError,)),
        ):
            async with end.limit(watch.explain):
                named = bool(self._consumer.volumes.select(clusters.BY_HANDLE, volume_id))
                for cluster, reference in self._homes(volume_id):
                    await self._delete_at(volume_id, cluster, reference, watch)
                if named:
                    self._ended.note(volume_id)

    def _homes(self, volume_id: str) -> list[tuple[clusters.Cluster, twins.TwinRef]]:
        """Return where a volume's twins are: as its PersistentVolume says, else by label.

        A label could be forged and is only an index; the volume's own word comes first.
        """
        virtual = self._consumer.volumes.select(clusters.BY_HANDLE, volume_id)
        if not virtual and volume_id in self._ended:
            # Asked again, as csi-provisioner does before it sees that the volume is gone. What
            # still has its label is not what the volume named, and may hold other data.
            return []
        if not virtual:
            self._clusters.require_synced(volume_id)
            return [
                (cluster, twins.TwinRef.of(twin)) for cluster, twin in self._own_twins(volume_id)
            ]
        homes = []
        for volume in virtual:
            home_id = description.home_of(volume)
            cluster = self._clusters.get(home_id)
            twin = description.twin_of(volume)
            if cluster is None or not cluster.claims.covers(twin.namespace):
                raise errors.OutcomeUnknownError(
                    f"home cluster {home_id} of volume {volume_id} cannot be reached "
                    f"({self._clusters.trouble(home_id) or 'no RemoteCluster names it'}); its data "
                    "is deleted once it is back"
                )
            if names.FORGOTTEN_ANNOTATION in volume.metadata.annotations:
                # It may be in sight again by another description; its data is kept all the same.
                raise errors.OutcomeUnknownError(
                    f"volume {volume_id} was forgotten, and its data is kept in cluster {home_id}; "
                    f"csi-liqo peer add brings it back, or take {names.FORGOTTEN_ANNOTATION} off "
                    f"PersistentVolume {volume.name} to have it deleted"
                )
            if names.RESTORE_ANNOTATION in volume.metadata.annotations:
                raise _under_repair(volume_id)
            homes.append((cluster, twin))
        return homes

    async def _delete_at(
        self,
        volume_id: str,
        cluster: clusters.Cluster,
        reference: twins.TwinRef,
        watch: binding.Progress,
    ) -> None:
        if reference.uid in self._ended:
            return
        cached = twin = cluster.claims.get(reference.namespace, reference.name)
        if twin is None or twin.uid != reference.uid:
            twin = await cluster.claims.read(reference.namespace, reference.name)
        if twin is None or twin.uid != reference.uid:
            await self._refuse_repaired(volume_id, reference)
            await ending.wait_until_unbound(cluster, reference.uid)
            return
        if twin.consumer != self._consumer.cluster_id:
            raise errors.PreconditionError(
                f"twin {twin.reference} in cluster {cluster.id} has no label "
                f"{names.CONSUMER_LABEL}={self._consumer.cluster_id}, so it is not touched; set "
                "the label again to let it be deleted"
            )
        if twin.deleting:
            await self._refuse_repaired(volume_id, reference)
        watch.follow(cluster, twin)
        await self._twins.release(cluster, twin)
        if twin is cached:
            self._ended.note(twin.uid)

    async def _refuse_repaired(self, volume_id: str, reference: twins.TwinRef) -> None:
        """See that a twin which is gone, or going, is not being made again.

        The cached volume may not say so yet, nor name the twin's successor.
        """
        for cached in self._consumer.volumes.select(clusters.BY_HANDLE, volume_id):
            volume = await self._consumer.volumes.read("", cached.name)
            if volume is not None and (
                names.RESTORE_ANNOTATION in volume.metadata.annotations
                or description.twin_of(volume) != reference
            ):
                raise _under_repair(volume_id)

    async def validate(
        self,
        volume_id: str,
        capabilities: tuple[volumes.VolumeCapability, ...],
        context: Mapping[str, str],
        class_parameters: Mapping[str, str],
    ) -> str:
        """Return why a volume cannot be used so; empty when it can.

        Raises:
            errors.VolumeNotFoundError: there is no such volume.
            errors.OutcomeUnknownError: a cluster that may hold it is out of reach.
        """
        found = self._own_twins(volume_id)
        if not found:
            self._clusters.require_synced(volume_id)
            raise errors.VolumeNotFoundError(f"there is no volume {volume_id}")
        _, twin = found[0]
        for capability in capabilities:
            if capability.volume_mode.value != twin.spec.volume_mode:
                return f"volume {volume_id} has volume mode {twin.spec.volume_mode}"
            if not access_modes.allows(twin.spec.access_modes, capability.access_mode):
                modes = ", ".join(twin.spec.access_modes)
                return f"volume {volume_id} has access modes {modes}"
        return ""


def _under_repair(volume_id: str) -> errors.Error:
    return errors.OperationPendingError(
        f"the twin of volume {volume_id} is being made again, and its data must not be left "
        "behind; finish the repair first: csi-liqo doctor --repair"
    )


def _refuse_unsupported(request: volumes.CreateRequest) -> None:
    """Say no to what can never work, before anything is looked up."""
    if request.has_source:
        raise errors.InvalidRequestError(
            "this driver cannot start a volume from a snapshot or another volume; remove the "
            "claim's dataSource"
        )
    if request.mutable_parameters:
        raise errors.InvalidRequestError(
            "this driver knows no VolumeAttributesClass; remove the claim's "
            "volumeAttributesClassName"
        )
    if len({capability.volume_mode for capability in request.capabilities}) > 1:
        raise errors.InvalidRequestError(
            "a volume is either a filesystem or a block device, not both"
        )


def _check_size(request: volumes.CreateRequest, volume: volumes.Volume) -> None:
    if request.limit_bytes and volume.capacity_bytes > request.limit_bytes:
        raise errors.CapacityRangeError(
            f"the real class made {volume.capacity_bytes} bytes, more than the limit of "
            f"{request.limit_bytes}"
        )
