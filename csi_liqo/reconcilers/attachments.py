"""Collects attachments of real volumes whose own attachment is gone.

Kubernetes detaches a virtual volume before it forgets the attachment, and the driver
takes the inner one away meanwhile. Whoever removes an attachment by force leaves the
inner one behind, which would keep the volume from every other node. The outer one is
always made first, and one watch shows both, so an inner one alone is an orphan.
"""

from __future__ import annotations

import logging

from csi_liqo.model import names, objects
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)


class OrphanAttachments:
    """Looks at one of our attachments at a time."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        attachments: ports.Objects[objects.VolumeAttachment],
        driver: str,
    ) -> None:
        self._consumer = consumer
        self._attachments = attachments
        self._driver = driver

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Delete an attachment of ours that no attachment of its virtual volume asks for."""
        inner = self._attachments.get(*key)
        if inner is None or inner.deleting or not self._is_ours(inner) or self._wanted(inner):
            return None
        logger.info("collecting orphan VolumeAttachment %s", inner.name)
        await self._attachments.delete("", inner.name, uid=inner.uid)
        return None

    def _is_ours(self, attachment: objects.VolumeAttachment) -> bool:
        labels = attachment.metadata.labels
        return (
            labels.get(names.CONSUMER_LABEL) == self._consumer.cluster_id
            and labels.get(names.DRIVER_LABEL) == self._driver
        )

    def _wanted(self, inner: objects.VolumeAttachment) -> bool:
        volume_id = inner.metadata.labels.get(names.VOLUME_LABEL, "")
        virtual = {v.name for v in self._consumer.volumes.select(clusters.BY_HANDLE, volume_id)}
        return any(
            outer.spec.attacher == self._driver
            and outer.spec.node_name == inner.spec.node_name
            and outer.spec.source.persistent_volume_name in virtual
            for outer in self._attachments.all()
        )
