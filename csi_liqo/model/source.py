"""Where a virtual volume's bytes really are, as it travels in ``volume_context``.

kubelet hands volume_context to NodeStage and NodePublish and to nothing else,
so the node role keeps what it learnt there in its journal. The codec is
versioned, because a PersistentVolume outlives many versions of the driver, and
holds no secret, because everybody who may read the PV reads it.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from csi_liqo.model import errors

VERSION_KEY: Final = "version"
SOURCE_KEY: Final = "source"
VERSION: Final = "1"


class Kind(enum.Enum):
    """What kind of PersistentVolume source the real volume has."""

    HOST_PATH = "hostPath"
    LOCAL = "local"
    REMOTE = "remote"
    """In another cluster: never mounted by this one's nodes."""


class VolumeMode(enum.Enum):
    FILESYSTEM = "Filesystem"
    BLOCK = "Block"


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The real volume's source.

    ``path`` is absolute on the node that holds the volume, empty for a remote one.
    ``fs_type`` is what a ``local`` block device would be formatted with, empty for
    the default. ``mount_options`` are the real PV's own.
    """

    kind: Kind
    path: str = ""
    volume_mode: VolumeMode = VolumeMode.FILESYSTEM
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()


def to_context(source: Source) -> dict[str, str]:
    """Return the entries of volume_context that describe this source."""
    return {VERSION_KEY: VERSION, SOURCE_KEY: msgspec.json.encode(source).decode()}


def from_context(context: dict[str, str]) -> Source:
    """Read a source back.

    Raises:
        errors.InvalidRequestError: the entries are missing, malformed, or of a
            version this driver does not know.
    """
    version = context.get(VERSION_KEY)
    if version != VERSION:
        raise errors.InvalidRequestError(
            f"volume_context has version {version!r}, this driver reads {VERSION!r}: "
            "the volume was made by another version of the driver; upgrade this node's plugin"
        )
    try:
        return msgspec.json.decode(context.get(SOURCE_KEY, ""), type=Source)
    except msgspec.DecodeError as error:
        raise errors.InvalidRequestError(f"volume_context.source is malformed: {error}") from error
