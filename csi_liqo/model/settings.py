"""What an operator sets for the node role, validated before any socket opens."""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import errors, names

_DRIVER_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,61}[A-Za-z])")
"""CSI's form, but ending in a letter, which is what csi-sanity accepts."""
_CLUSTER_ID: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The node role's settings.

    Raises:
        errors.InvalidRequestError: a value no installation can mean; the text names the flag.
    """

    cluster_id: str
    """The own cluster's id, the same as the controller's; a topology label's value."""
    node_name: str
    """The Node object's name: also CSI's node id."""
    driver_name: str = names.DEFAULT_DRIVER
    kubelet_dir: pathlib.Path = pathlib.Path("/var/lib/kubelet")
    """kubelet's --root-dir; the same path here as on the host, because kubelet passes paths."""
    host_root: pathlib.Path = pathlib.Path("/host")
    """Where the host's root folder is mounted; real volumes' paths are resolved inside it."""
    endpoint: pathlib.Path | None = None
    """The CSI socket; None puts it below ``plugins/<driver>/`` in kubelet's folder."""
    real_drivers_file: pathlib.Path = pathlib.Path("/etc/csi-liqo/real-drivers/drivers.json")
    """Where the controller tells which real drivers' limits count here; absent means none."""
    registers: bool = True
    """Whether to register with kubelet here; False where a node-driver-registrar does it."""
    health_address: str = ":9809"
    metrics_address: str = ":9808"
    """Where /healthz and /metrics are served, ``host:port``; an empty host is every one."""
    drain_seconds: float = 25.0
    """How long running calls may take to end after SIGTERM; below a pod's 30 s of grace."""

    def __post_init__(self) -> None:
        if not _CLUSTER_ID.fullmatch(self.cluster_id):
            raise errors.InvalidRequestError(
                f"cluster id {self.cluster_id!r} is no DNS label of at most 63 characters; set "
                "--cluster-id (CSI_LIQO_CLUSTER_ID) to what the controller has"
            )
        if not 0 < len(self.node_name.encode()) <= 253:
            raise errors.InvalidRequestError(f"--node-name {self.node_name!r} is no node's name")
        if not _DRIVER_NAME.fullmatch(self.driver_name):
            raise errors.InvalidRequestError(f"--driver-name {self.driver_name!r} is no CSI name")
        for flag, path in (
            ("--kubelet-dir", self.kubelet_dir),
            ("--host-root", self.host_root),
            ("--real-drivers-file", self.real_drivers_file),
        ):
            if not path.is_absolute() or ".." in path.parts:
                raise errors.InvalidRequestError(f"{flag} {path} is not an absolute path")

    @property
    def plugin_dir(self) -> pathlib.Path:
        """The driver's own folder in kubelet's."""
        return self.kubelet_dir / "plugins" / self.driver_name

    @property
    def socket(self) -> pathlib.Path:
        """The CSI socket."""
        return self.endpoint or self.plugin_dir / "csi.sock"

    @property
    def journal_dir(self) -> pathlib.Path:
        """Where the journal's files are."""
        return self.plugin_dir / "journal"

    @property
    def registration_socket(self) -> pathlib.Path:
        """The socket that kubelet watches for; a fixed name, so that there is never a second."""
        return self.kubelet_dir / "plugins_registry" / f"{self.driver_name}-reg.sock"
