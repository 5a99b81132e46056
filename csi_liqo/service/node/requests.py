"""What kubelet asks of a node, free of protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from csi_liqo.model import volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRequest:
    """Make a volume ready for all its pods on this node.

    ``staging_path`` is a folder kubelet made; ``context`` is the volume's own.
    """

    volume_id: str
    staging_path: str
    capability: volumes.VolumeCapability
    context: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """Show a volume to one pod, at ``target_path``, whose parent kubelet made."""

    volume_id: str
    staging_path: str
    target_path: str
    capability: volumes.VolumeCapability
    read_only: bool
    context: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A volume's fill. ``total_inodes`` 0 means the filesystem does not count them.

    For a block volume only ``total_bytes`` is known, the others are 0.
    """

    total_bytes: int
    used_bytes: int = 0
    available_bytes: int = 0
    total_inodes: int = 0
    used_inodes: int = 0
    available_inodes: int = 0
    block: bool = False
