"""What can be known beforehand of a real class that belongs to a CSI driver.

Kubernetes treats a pod's volume by the CSIDriver object of the driver in its
PersistentVolume, which is ours, so the real driver's own is looked at here. What
cannot be passed on to it is refused before anything is made.
"""

from __future__ import annotations

from typing import Final

from csi_liqo.model import errors, objects
from csi_liqo.service.controller import clusters

_NODE_SECRETS: Final = (
    "csi.storage.k8s.io/node-stage-secret-name",
    "csi.storage.k8s.io/node-publish-secret-name",
)
"""Class parameters by which kubelet is told which Secret to pass to a node plugin."""


class RealDrivers:
    """The CSI drivers of this cluster, as far as the API tells."""

    def __init__(self, consumer: clusters.Consumer, *, attaches: bool) -> None:
        """``attaches``: whether this installation attaches real volumes."""
        self._consumer = consumer
        self._attaches = attaches

    def check(
        self, real: objects.StorageClass, node: objects.Node | None, claim: objects.Claim | None
    ) -> None:
        """Refuse a class whose volumes could not be used on a node; others pass.

        Raises:
            errors.PlacementError: the driver does not run on that node.
            errors.PreconditionError: it needs what this installation does not pass on.
        """
        driver = self._consumer.csi_drivers.get("", real.provisioner)
        if driver is None:
            return
        if driver.spec.attach_required and not self._attaches:
            raise errors.PreconditionError(
                f"StorageClass {real.name} belongs to the CSI driver {driver.name}, whose volumes "
                "must be attached, and this installation does not attach; install the overlay "
                "deploy/attach beside it and use its StorageClass"
            )
        if driver.spec.token_requests:
            raise errors.PreconditionError(
                f"the CSI driver {driver.name} of StorageClass {real.name} wants service account "
                "tokens, which this driver does not pass on; name another class in parameter "
                "localClass"
            )
        self._check_secrets(real, claim)
        if node is not None and not self._runs_on(driver.name, node):
            raise errors.PlacementError(
                f"the CSI driver {driver.name} of StorageClass {real.name} does not run on node "
                f"{node.name}; choose another node, or see why its CSINode lacks the driver"
            )

    def _check_secrets(self, real: objects.StorageClass, claim: objects.Claim | None) -> None:
        virtual = claim and self._consumer.classes.get("", claim.spec.storage_class_name)
        given = virtual.parameters if virtual else {}
        missing = [key for key in _NODE_SECRETS if key in real.parameters and key not in given]
        if missing:
            name = virtual.name if virtual else "of the claim"
            raise errors.PreconditionError(
                f"StorageClass {real.name} passes secrets to its driver ({missing[0]}), and the "
                f"virtual StorageClass {name} does not; give it the same parameters"
            )

    def _runs_on(self, driver: str, node: objects.Node) -> bool:
        """A real provisioner fails a claim for ever on a node without its driver's entry.

        (external-provisioner v6.3.0, topology.go:197-207; nothing reschedules it.)
        """
        csi_node = self._consumer.csi_nodes.get("", node.name)
        return csi_node is not None and any(entry.name == driver for entry in csi_node.drivers)
