"""Real volumes that were made by hand: binding a twin to one of them.

A class of ``kubernetes.io/no-provisioner`` binds only when the scheduler binds, and
no scheduler ever sees a twin. Selecting a node by annotation is no way out: the
volume controller then takes any free volume of the class, wherever it is
(kubernetes v1.37.2, component-helpers pv_helpers.go:279-320). So the volume's
``claimRef`` is set here, as the scheduler would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from csi_liqo.model import affinity, errors, objects, quantities, twins
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters

PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"
"""On a volume that a provisioner made: which one."""


class Choice:
    """The volumes of a class that fit one twin on a node.

    ``spoken_for`` is shared by all: the volumes that running calls are writing to. Each call
    would begin with the smallest, so that many at once would all be too late but one. It is
    a courtesy: what makes a volume one twin's alone is the precondition of the write, which
    holds across replicas, too, so a volume that is spoken for is only tried last.
    """

    def __init__(
        self,
        volumes: ports.Objects[objects.PersistentVolume],
        spec: twins.TwinSpec,
        node: objects.Node,
        spoken_for: set[str],
    ) -> None:
        self._volumes = volumes
        self._spec = spec
        self._node = node
        self._spoken_for = spoken_for

    def fitting(self) -> list[objects.PersistentVolume]:
        """Return those that are free as far as the cache knows, the smallest first.

        One without node affinity does not count: nobody knows on which node its data is.
        """
        spec = self._spec
        fitting = [
            volume
            for volume in self._volumes.select(clusters.BY_CLASS, spec.class_name)
            if volume.status.phase == "Available"
            and volume.spec.claim_ref is None
            and not volume.deleting
            and volume.spec.volume_mode == spec.volume_mode
            and set(spec.access_modes) <= set(volume.spec.access_modes)
            and _size_of(volume) >= spec.size_bytes
            and volume.terms
            and affinity.matches(volume, self._node)
        ]
        return sorted(fitting, key=lambda volume: (_size_of(volume), volume.name))

    async def prebind(self, twin: objects.Claim) -> None:
        """Bind one of the volumes to a twin; a volume that is bound to it already is enough.

        Raises:
            errors.PlacementError: others took every one of them meanwhile.
            errors.OutcomeUnknownError: the API server did not say what it did.
        """
        if self._volumes.select(clusters.BY_CLAIM_UID, twin.uid):
            return
        tried: set[str] = set()
        while left := [volume for volume in self.fitting() if volume.name not in tried]:
            volume = min(left, key=lambda one: one.name in self._spoken_for)  # the first of equals
            tried.add(volume.name)
            with self._speaking_for(volume.name):
                if await self._take(volume, twin):
                    return
        raise errors.PlacementError(
            f"every real volume of class {twin.spec.storage_class_name} that fits twin "
            f"{twin.reference} was taken meanwhile; add one, or choose another node"
        )

    async def _take(self, volume: objects.PersistentVolume, twin: objects.Claim) -> bool:
        """Bind a volume to a twin, and wait until the cache shows it to all; False: too late."""
        try:
            await self._volumes.patch("", volume.name, _forge_claim_ref(volume, twin))
        except (errors.ApiConflictError, errors.ApiNotFoundError):
            return False  # somebody was faster: it is another version now
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"real volume {volume.name} may be bound to twin {twin.reference}: {error}"
            ) from error

        def shown(now: objects.PersistentVolume | None) -> bool | None:
            return now is None or now.spec.claim_ref is not None or None

        await self._volumes.wait("", volume.name, shown)
        return True

    @contextlib.contextmanager
    def _speaking_for(self, name: str) -> Iterator[None]:
        first = name not in self._spoken_for
        self._spoken_for.add(name)
        try:
            yield
        finally:
            if first:
                self._spoken_for.discard(name)


async def unbind(volumes: ports.Objects[objects.PersistentVolume], twin_uid: str) -> None:
    """Free the volumes made by hand of a twin that is gone and never held data.

    One that a provisioner made goes by its own reclaim policy: freed, it would be left over.

    Raises:
        errors.OutcomeUnknownError: the API server did not say what it did.
    """
    for volume in volumes.select(clusters.BY_CLAIM_UID, twin_uid):
        if PROVISIONED_BY in volume.metadata.annotations:
            continue
        patch = [
            {"op": "test", "path": "/spec/claimRef/uid", "value": twin_uid},
            {"op": "remove", "path": "/spec/claimRef"},
        ]
        try:
            await volumes.patch("", volume.name, patch)
        except (errors.ApiNotFoundError, errors.ApiConflictError):
            continue  # it is gone, or free already
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"real volume {volume.name} could not be freed: {error}"
            ) from error


def _forge_claim_ref(
    volume: objects.PersistentVolume, twin: objects.Claim
) -> list[dict[str, object]]:
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": twin.namespace,
        "name": twin.name,
        "uid": twin.uid,
    }
    version = volume.metadata.resource_version
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "add", "path": "/spec/claimRef", "value": reference},
    ]


def _size_of(volume: objects.PersistentVolume) -> int:
    return quantities.to_bytes(volume.spec.capacity.get("storage", "0"))
