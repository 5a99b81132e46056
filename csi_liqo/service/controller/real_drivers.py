"""What can be known beforehand of a real class that belongs to a CSI driver.

Kubernetes treats a pod's volume by the CSIDriver object of the driver in its
PersistentVolume, which is ours, so the real driver's own is looked at here. What
cannot be passed on to it is refused before anything is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from csi_liqo.model import errors, objects
from csi_liqo.service.controller import clusters

_PREFIX: Final = "csi.storage.k8s.io/"
_NODE_SECRETS: Final = frozenset(
    f"{_PREFIX}{call}-secret-name" for call in ("node-stage", "node-publish", "node-expand")
)
"""Class parameters by which kubelet is told which Secret to pass to a node plugin.

The others are none of ours: the real driver's own sidecars read them of the real class and
the real volume (external-provisioner v6.3.0, controller.go:170-230).
"""
_EVERY_SECRET: Final = f"{_PREFIX}secret-name"
_OLD_NAMES: Final = {
    "csiNodeStageSecretName": f"{_PREFIX}node-stage-secret-name",
    "csiNodePublishSecretName": f"{_PREFIX}node-publish-secret-name",
}


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
        missing = sorted(_node_secrets(real.parameters) - _node_secrets(given))
        if missing:
            name = virtual.name if virtual else "of the claim"
            raise errors.PreconditionError(
                f"StorageClass {real.name} passes secrets to its driver ({', '.join(missing)}), "
                f"and the virtual StorageClass {name} does not; make one with the same parameters, "
                "each with its namespace"
            )

    def _runs_on(self, driver: str, node: objects.Node) -> bool:
        """A real provisioner fails a claim for ever on a node without its driver's entry.

        (external-provisioner v6.3.0, topology.go:197-207; nothing reschedules it.)
        """
        csi_node = self._consumer.csi_nodes.get("", node.name)
        return csi_node is not None and any(entry.name == driver for entry in csi_node.drivers)


def _node_secrets(parameters: Mapping[str, str]) -> frozenset[str]:
    """Return which of a node plugin's calls get a Secret, by the parameters' present names."""
    if _EVERY_SECRET in parameters:
        return _NODE_SECRETS
    return _NODE_SECRETS & {_OLD_NAMES.get(key, key) for key in parameters}
