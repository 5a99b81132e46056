"""Attaching the real volume behind a virtual one, by a VolumeAttachment of our own.

The real driver's attacher serves it like any other. Its name must not be the one that
kube-controller-manager gives its own: on every start that detaches what no pod wants, by
deleting the object of that name (kubernetes v1.37.2, csi_attacher.go:442-449). An
attacher keeps no count either, so no second attachment of the pair may exist beside ours
(external-attacher v4.13.0, csi_handler.go:536-600): pods are kept from the twins.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from csi_liqo.model import errors, names, objects, source
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters, deadline, in_flight, settling

logger = logging.getLogger(__name__)

BY_VOLUME = "volume"
"""Index of attachments: ours by the virtual volume's id."""


class Attaching:
    """The use cases behind ControllerPublishVolume and ControllerUnpublishVolume."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        attachments: ports.Objects[objects.VolumeAttachment],
        driver: str,
    ) -> None:
        self._consumer = consumer
        self._attachments = attachments
        self._driver = driver
        self._in_flight = in_flight.InFlight()

    async def attach(
        self,
        volume_id: str,
        node_name: str,
        context: dict[str, str],
        deadline_seconds: float | None,
    ) -> dict[str, str]:
        """Return what the real driver's attachment tells its node plugin; empty when it needs none.

        A volume in another cluster is attached there, by that cluster.

        Raises:
            errors.VolumeNotFoundError, errors.NodeNotFoundError: there is no such.
            errors.RealDriverError: the real driver refuses; its own code where it gave one.
            errors.ComeBackError: it is not attached yet.
        """
        volumes, claims, nodes = (
            self._consumer.volumes,
            self._consumer.claims,
            self._consumer.nodes,
        )
        if not (
            volumes.select(clusters.BY_HANDLE, volume_id)
            or claims.select(clusters.BY_VOLUME, volume_id)
        ):
            _require_synced(volume_id, volumes, claims)
            raise errors.VolumeNotFoundError(f"there is no volume {volume_id}")
        node = nodes.get("", node_name)
        if node is None:
            _require_synced(volume_id, nodes)
            raise errors.NodeNotFoundError(f"there is no node {node_name}")
        found = source.from_context(context)
        if node.virtual or found.csi is None or not found.csi.attach_required:
            return {}
        end = deadline.Deadline(deadline_seconds)
        name = attachment_name(found.csi.persistent_volume, node_name)
        said = f"real volume {found.csi.persistent_volume} is being attached to node {node_name}"

        async def explain() -> str:
            return f"{said} by {found.csi.driver if found.csi else ''}"

        with self._in_flight.claim(name):
            async with end.limit(explain):
                made = await self._ensure(name, volume_id, node_name, found.csi)
                return await self._attached(made)

    async def _ensure(
        self, name: str, volume_id: str, node_name: str, real: source.CsiSource
    ) -> objects.VolumeAttachment:
        known = self._attachments.get("", name)
        if known is not None:
            return known
        labels = {
            names.VOLUME_LABEL: volume_id,
            names.CONSUMER_LABEL: self._consumer.cluster_id,
            names.DRIVER_LABEL: self._driver,
        }
        manifest = forge_attachment(name, node_name, real, labels)
        try:
            return await self._attachments.create("", manifest)
        except errors.ApiAlreadyExistsError as error:
            known = await self._attachments.read("", name)
            if known is None:
                raise errors.OperationPendingError(f"VolumeAttachment {name} went away") from error
            return known
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(f"VolumeAttachment {name}: {error}") from error

    async def _attached(self, made: objects.VolumeAttachment) -> dict[str, str]:
        def settled(found: objects.VolumeAttachment) -> dict[str, str] | None:
            if found.deleting:
                raise errors.OperationPendingError(
                    f"real volume {found.spec.source.persistent_volume_name} is being detached "
                    f"from node {found.spec.node_name}"
                )
            if found.status.attached:
                return found.status.attachment_metadata
            if found.status.attach_error is not None:
                raise _told(found.status.attach_error)
            return None

        return await settling.Made(self._attachments, made, kind="VolumeAttachment").wait(settled)

    async def detach(self, volume_id: str, node_name: str, deadline_seconds: float | None) -> None:
        """Return once the real volume is detached; what is not attached, is detached.

        ``node_name`` empty means every node. The attachment must be gone, not only asked to
        go: the next node's attachment would overlap otherwise.

        Raises:
            errors.ComeBackError: it is not detached yet, or nobody can tell at the moment.
        """
        _require_synced(volume_id, self._attachments)
        end = deadline.Deadline(deadline_seconds)
        for known in self._attachments.select(BY_VOLUME, volume_id):
            if node_name in ("", known.spec.node_name):
                with self._in_flight.claim(known.name):
                    await self._detach(known, end)

    async def _detach(self, known: objects.VolumeAttachment, end: deadline.Deadline) -> None:
        async def explain() -> str:
            current = self._attachments.get("", known.name)
            failure = current.status.detach_error if current else None
            volume = known.spec.source.persistent_volume_name
            said = f": {failure.message}" if failure else ""
            return f"real volume {volume} is being detached from {known.spec.node_name}{said}"

        def gone(found: objects.VolumeAttachment | None) -> bool | None:
            return found is None or found.uid != known.uid or None

        async with end.limit(explain):
            if not known.deleting:
                try:
                    await self._attachments.delete("", known.name, uid=known.uid)
                except errors.ApiConflictError:
                    return  # another one has the name by now: this one is gone
                except errors.ApiError as error:
                    raise errors.OutcomeUnknownError(
                        f"VolumeAttachment {known.name}: {error}"
                    ) from error
            await self._attachments.wait("", known.name, gone)


def _require_synced(volume_id: str, *caches: ports.Objects[Any]) -> None:
    """Refuse to call anything absent that a cache out of sync does not show."""
    if not all(cache.synced for cache in caches):
        raise errors.OutcomeUnknownError(
            f"this cluster's API server is out of reach, so nobody can tell how volume "
            f"{volume_id} is attached; waiting for it"
        )


def attachment_name(real_volume: str, node_name: str) -> str:
    """Return the name of our attachment of a real volume to a node."""
    digest = hashlib.sha256(f"{real_volume}|{node_name}".encode()).hexdigest()
    return f"csi-liqo-{digest[:40]}"


def forge_attachment(
    name: str, node_name: str, real: source.CsiSource, labels: dict[str, str]
) -> dict[str, Any]:
    """Return the manifest of our attachment of a real volume to a node."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "attacher": real.driver,
            "nodeName": node_name,
            "source": {"persistentVolumeName": real.persistent_volume},
        },
    }


def _told(failure: objects.AttachmentError) -> errors.Error:
    """Pass the real driver's refusal on: with its code kubelet refreshes a node's limit."""
    if failure.error_code is not None:
        return errors.RealDriverError(failure.error_code, failure.message)
    return errors.OutcomeUnknownError(failure.message)
