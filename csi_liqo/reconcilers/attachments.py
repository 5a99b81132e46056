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
        if inner is None or inner.deleting or not self._is_ours(inner):
            return None
        if await self._wanted(inner):
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

    async def _wanted(self, inner: objects.VolumeAttachment) -> bool:
        """Whether an attachment of the same volume and node exists.

        The watch of volumes may be behind that of attachments: one whose volume it does not
        show is asked for. To detach what a pod is writing to would be worse than to wait.
        """
        volume_id = inner.metadata.labels.get(names.VOLUME_LABEL, "")
        for outer in self._attachments.all():
            if outer.spec.attacher != self._driver or outer.spec.node_name != inner.spec.node_name:
                continue
            name = outer.spec.source.persistent_volume_name
            volume = self._consumer.volumes.get("", name)
            if volume is None:
                volume = await self._consumer.volumes.read("", name)
            if volume is None or volume.spec.csi is None:
                continue
            if volume.spec.csi.volume_handle == volume_id:
                return True
        return False
