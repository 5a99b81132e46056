"""What a CreateVolume asks for and what it is answered, free of protobuf.

The gRPC edge converts to these and back; the use cases know nothing else of
CSI. Secrets are left behind at the edge: no use case needs one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from csi_liqo.model import ids, source, topology


class AccessMode(enum.Enum):
    """CSI's access modes by their published names."""

    SINGLE_NODE_WRITER = "SINGLE_NODE_WRITER"
    SINGLE_NODE_READER_ONLY = "SINGLE_NODE_READER_ONLY"
    SINGLE_NODE_SINGLE_WRITER = "SINGLE_NODE_SINGLE_WRITER"
    SINGLE_NODE_MULTI_WRITER = "SINGLE_NODE_MULTI_WRITER"
    MULTI_NODE_READER_ONLY = "MULTI_NODE_READER_ONLY"
    MULTI_NODE_SINGLE_WRITER = "MULTI_NODE_SINGLE_WRITER"
    MULTI_NODE_MULTI_WRITER = "MULTI_NODE_MULTI_WRITER"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeCapability:
    """One way in which a volume will be used.

    ``fs_type``, ``mount_flags`` and ``mount_group`` are empty for volume mode Block.
    """

    access_mode: AccessMode
    volume_mode: source.VolumeMode
    fs_type: str = ""
    mount_flags: tuple[str, ...] = ()
    mount_group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """A volume somebody wants.

    ``name`` is the idempotency key. ``limit_bytes`` 0 means no limit, ``required_bytes``
    0 no wish. At least one capability; all of them must hold. ``has_source``: the
    volume should start from a snapshot or another volume, not empty.
    """

    name: str
    required_bytes: int
    limit_bytes: int
    capabilities: tuple[VolumeCapability, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    requirement: topology.Requirement = field(default_factory=topology.Requirement)
    has_source: bool = False
    mutable_parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume that exists.

    ``capacity_bytes`` 0 means unknown. ``context`` travels to the nodes unchanged.
    ``topology`` lists where the volume can be used, each entry enough by itself;
    empty means everywhere.
    """

    id: ids.VolumeId
    capacity_bytes: int
    context: Mapping[str, str]
    topology: tuple[topology.Segment, ...] = ()
