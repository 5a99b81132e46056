"""Protobuf to the model and back, and every check of a request that needs no lookup.

CSI wants a missing or malformed field refused with INVALID_ARGUMENT before
anything is looked up (spec 1.13, "Error Scheme" and "Size Limits"). The
provisioner then leaves the claim alone for minutes, so only what can never
become right is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from csi_liqo.model import errors, source, topology, volumes
from csi_liqo.rpc.pb import csi_pb2

LONGEST_STRING: Final = 128
"""Bytes of a name or id."""
LARGEST_MAP: Final = 4096
"""Bytes of a map, keys and values together."""

_ACCESS_MODES: Final = {
    csi_pb2.VolumeCapability.AccessMode.Mode.Value(mode.value): mode for mode in volumes.AccessMode
}


def identifier(value: str, field: str) -> str:
    """Return a required name or id.

    Raises:
        errors.InvalidRequestError: it is empty, or longer than CSI allows.
    """
    if not value:
        raise errors.InvalidRequestError(f"{field} is missing")
    if len(value.encode()) > LONGEST_STRING:
        raise errors.InvalidRequestError(f"{field} is longer than {LONGEST_STRING} bytes")
    return value


def entries(values: Mapping[str, str], field: str) -> dict[str, str]:
    """Return a copy of a map.

    Raises:
        errors.InvalidRequestError: it is larger than CSI allows.
    """
    copied = dict(values)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in copied.items())
    if size > LARGEST_MAP:
        raise errors.InvalidRequestError(f"{field} has {size} bytes, more than {LARGEST_MAP}")
    return copied


def capability(message: csi_pb2.VolumeCapability) -> volumes.VolumeCapability:
    """Return one capability.

    Raises:
        errors.InvalidRequestError: access type or access mode is missing or unknown.
    """
    access_mode = _ACCESS_MODES.get(message.access_mode.mode)
    if access_mode is None:
        raise errors.InvalidRequestError("volume_capability.access_mode is missing or unknown")
    match message.WhichOneof("access_type"):
        case "block":
            return volumes.VolumeCapability(
                access_mode=access_mode, volume_mode=source.VolumeMode.BLOCK
            )
        case "mount":
            return volumes.VolumeCapability(
                access_mode=access_mode,
                volume_mode=source.VolumeMode.FILESYSTEM,
                fs_type=message.mount.fs_type,
                mount_flags=tuple(message.mount.mount_flags),
                mount_group=message.mount.volume_mount_group,
            )
        case _:
            raise errors.InvalidRequestError("volume_capability names neither block nor mount")


def capabilities(
    messages: Sequence[csi_pb2.VolumeCapability],
) -> tuple[volumes.VolumeCapability, ...]:
    """Return all capabilities, at least one.

    Raises:
        errors.InvalidRequestError: there is none, or one is malformed.
    """
    if not messages:
        raise errors.InvalidRequestError("volume_capabilities is missing")
    return tuple(capability(message) for message in messages)


def requirement(message: csi_pb2.TopologyRequirement) -> topology.Requirement:
    """Return where a volume must be reachable; an absent message asks for nothing."""
    return topology.Requirement(
        requisite=tuple(dict(segment.segments) for segment in message.requisite),
        preferred=tuple(dict(segment.segments) for segment in message.preferred),
    )


def create_request(message: csi_pb2.CreateVolumeRequest) -> volumes.CreateRequest:
    """Return a CreateVolume request without its secrets.

    Raises:
        errors.InvalidRequestError: a field is missing or malformed.
    """
    name = identifier(message.name, "name")
    size = message.capacity_range
    if size.required_bytes < 0 or size.limit_bytes < 0:
        raise errors.InvalidRequestError("capacity_range is negative")
    if 0 < size.limit_bytes < size.required_bytes:
        raise errors.InvalidRequestError("capacity_range.limit_bytes is below required_bytes")
    return volumes.CreateRequest(
        name=name,
        required_bytes=size.required_bytes,
        limit_bytes=size.limit_bytes,
        capabilities=capabilities(message.volume_capabilities),
        parameters=entries(message.parameters, "parameters"),
        requirement=requirement(message.accessibility_requirements),
        has_source=message.HasField("volume_content_source"),
        mutable_parameters=entries(message.mutable_parameters, "mutable_parameters"),
    )


def volume(answer: volumes.Volume) -> csi_pb2.Volume:
    """Return a volume as the provisioner reads it."""
    return csi_pb2.Volume(
        volume_id=answer.id,
        capacity_bytes=answer.capacity_bytes,
        volume_context=answer.context,
        accessible_topology=[csi_pb2.Topology(segments=segment) for segment in answer.topology],
    )
