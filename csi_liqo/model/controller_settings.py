"""What an installation sets for the controller role."""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import errors, names

_LABEL_VALUE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

ORPHAN_GRACE_SECONDS: Final = 300.0
"""Longer than a leader's lease and the sidecar's timeout (120 s) together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Settings of the controller.

    ``attach``: whether real volumes are attached; as the CSIDriver's ``attachRequired``.
    ``kubeconfig`` None means this pod's service account. ``namespace`` is the driver's own,
    ``twins_namespace`` where local twins live. ``real_drivers_config_map`` is the ConfigMap
    that tells the node plugins which CSI drivers are behind the virtual classes,
    ``fence_config_map`` the one among the twins that tells an admission policy of them.
    ``orphan_grace_seconds``: how long a twin that was never handed over is left alone.
    """

    cluster_id: str
    csi_endpoint: str
    driver_name: str = names.DEFAULT_DRIVER
    namespace: str = names.DRIVER_NAMESPACE
    twins_namespace: str = names.DEFAULT_TWINS_NAMESPACE
    kubeconfig: pathlib.Path | None = None
    attach: bool = False
    real_drivers_config_map: str = names.REAL_DRIVERS_CONFIG_MAP
    fence_config_map: str = names.FENCE_CONFIG_MAP
    orphan_grace_seconds: float = ORPHAN_GRACE_SECONDS
    health_address: str = ":9809"
    metrics_address: str = ":9808"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            errors.InvalidRequestError: names the setting.
        """
        if not _LABEL_VALUE.fullmatch(self.cluster_id):
            raise errors.InvalidRequestError(
                f"cluster id {self.cluster_id!r} is no DNS label of at most 63 characters; set "
                "--cluster-id (CSI_LIQO_CLUSTER_ID) to this cluster's id, beside Liqo its own"
            )
        if self.orphan_grace_seconds <= 0:
            raise errors.InvalidRequestError("--orphan-grace-seconds must be positive")
