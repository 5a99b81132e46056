"""What an installation sets for the controller role."""

from __future__ import annotations

import pathlib
import re
import secrets
import socket
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from csi_liqo.model import errors, labelling, names

_LABEL_VALUE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

ORPHAN_GRACE_SECONDS: Final = 300.0
"""Longer than a leader's lease and the sidecar's timeout (120 s) together."""


def own_name() -> str:
    """Return a name for a replica that no other process has, also none of this machine."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


class RemoteClusterSource(StrEnum):
    """What describes the remote clusters: RemoteCluster objects, an existing Liqo, or both."""

    CSI_LIQO = "csi-liqo"
    LIQO = "liqo"
    BOTH = "both"

    @property
    def of_our_own(self) -> bool:
        return self is not RemoteClusterSource.LIQO

    @property
    def of_liqo(self) -> bool:
        return self is not RemoteClusterSource.CSI_LIQO


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Settings of the controller.

    ``attach``: whether real volumes are attached; as the CSIDriver's ``attachRequired``.
    ``kubeconfig`` None means this pod's service account. ``namespace`` is the driver's own,
    ``twins_namespace`` where local twins live. ``real_drivers_config_map`` is the ConfigMap
    that tells the node plugins which CSI drivers are behind the virtual classes,
    ``fence_config_map`` the one among the twins, for all installations, that tells the fence
    around them whether there are any, ``homes_config_map`` the one, of this installation, that
    tells admission policies where its volumes have their homes. ``service_account`` is the
    one in ``namespace`` that this process acts as.
    ``replica`` tells this process from the other replicas, and is the same again after a
    restart of its container: the pod's name. ``orphan_grace_seconds``: how long a twin that
    was never handed over is left alone. ``shared_marks``: which labels and annotations a
    claim and its twin share. ``allowed_exec_plugins``: absolute paths of programs that a
    provider's kubeconfig may start.
    """

    cluster_id: str
    csi_endpoint: str
    driver_name: str = names.DEFAULT_DRIVER
    namespace: str = names.DRIVER_NAMESPACE
    twins_namespace: str = names.DEFAULT_TWINS_NAMESPACE
    fence_config_map: str = names.FENCE_CONFIG_MAP
    homes_config_map: str = names.HOMES_CONFIG_MAP
    service_account: str = names.CONTROLLER_ACCOUNT
    replica: str = field(default_factory=own_name)
    kubeconfig: pathlib.Path | None = None
    attach: bool = False
    remote_clusters: RemoteClusterSource = RemoteClusterSource.CSI_LIQO
    real_drivers_config_map: str = names.REAL_DRIVERS_CONFIG_MAP
    orphan_grace_seconds: float = ORPHAN_GRACE_SECONDS
    shared_marks: labelling.Rules = field(default_factory=labelling.Rules)
    allowed_exec_plugins: tuple[str, ...] = ()
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
        refuse_relative(self.allowed_exec_plugins)


def read_exec_plugins(text: str) -> tuple[str, ...]:
    """Return the programs that a text names, separated by commas.

    Raises:
        errors.InvalidRequestError: one is not named by its absolute path.
    """
    named = tuple(path for path in text.split(",") if path)
    refuse_relative(named)
    return named


def refuse_relative(exec_plugins: tuple[str, ...]) -> None:
    """Refuse programs that depend on where this one runs.

    Raises:
        errors.InvalidRequestError: names the setting.
    """
    for plugin in exec_plugins:
        if not pathlib.PurePosixPath(plugin).is_absolute():
            raise errors.InvalidRequestError(
                f"--allowed-exec-plugins has {plugin!r}; name programs by their absolute path"
            )
