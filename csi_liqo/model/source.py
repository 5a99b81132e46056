"""Where a virtual volume's bytes really are, as it travels in ``volume_context``.

kubelet hands volume_context to NodeStage and NodePublish and to nothing else,
so the node role keeps what it learnt there in its journal. The codec is
versioned, because a PersistentVolume outlives many versions of the driver, and
holds no secret, because everybody who may read the PV reads it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from csi_liqo.model import errors

VERSION_KEY: Final = "version"
SOURCE_KEY: Final = "source"
VERSION: Final = "1"
"""Of the layout. A new kind needs no new one: a driver that does not know it says so."""

LARGEST_CONTEXT: Final = 4096
"""Bytes of volume_context, keys and values together (CSI spec, "Size Limits")."""

# Both become parts of a path on the node.
_DRIVER_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,61}[A-Za-z0-9])?")
_OBJECT_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Kind(enum.Enum):
    """What kind of PersistentVolume source the real volume has."""

    HOST_PATH = "hostPath"
    LOCAL = "local"
    CSI = "csi"
    """Of a real CSI driver: its calls are passed through to that one."""
    REMOTE = "remote"
    """In another cluster: never mounted by this one's nodes."""


class VolumeMode(enum.Enum):
    FILESYSTEM = "Filesystem"
    BLOCK = "Block"


class FsGroupPolicy(enum.Enum):
    """When files are given to a pod's fsGroup: CSIDriver.spec.fsGroupPolicy."""

    NONE = "None"
    FILE = "File"
    READ_WRITE_ONCE_WITH_FS_TYPE = "ReadWriteOnceWithFSType"


class CsiSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A real CSI volume: what kubelet would read of its PersistentVolume and CSIDriver.

    ``handle`` and ``attributes`` are the real PV's ``csi.volumeHandle`` and
    ``csi.volumeAttributes``, ``access_modes`` its ``spec.accessModes`` in their order,
    ``persistent_volume`` its name, by which kubelet stages a block volume. The others are
    fields of the real CSIDriver object; a driver without one has the defaults that
    Kubernetes gives it, so ``attach_required`` must then be set.
    """

    driver: str
    handle: str
    persistent_volume: str
    attributes: dict[str, str] = {}
    access_modes: tuple[str, ...] = ()
    fs_group_policy: FsGroupPolicy = FsGroupPolicy.READ_WRITE_ONCE_WITH_FS_TYPE
    pod_info: bool = False
    attach_required: bool = False
    requires_republish: bool = False


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The real volume's source.

    ``path`` is absolute on the node that holds the volume, empty for a remote or CSI one.
    ``fs_type`` is what a ``local`` block device would be formatted with, or a CSI
    volume's own; empty for the default. ``mount_options`` are the real PV's own.
    ``csi`` is there for kind CSI and no other.
    """

    kind: Kind
    path: str = ""
    volume_mode: VolumeMode = VolumeMode.FILESYSTEM
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()
    csi: CsiSource | None = None


def to_context(source: Source) -> dict[str, str]:
    """Return the entries of volume_context that describe this source."""
    return {VERSION_KEY: VERSION, SOURCE_KEY: msgspec.json.encode(source).decode()}


def check_size(context: Mapping[str, str], name: str) -> None:
    """Return when a whole volume_context is as small as CSI wants it.

    ``name`` is what the real volume is called in the refusal.

    Raises:
        errors.PreconditionError: it is larger; cut short, it would mount another volume.
    """
    size = sum(len(key.encode()) + len(value.encode()) for key, value in context.items())
    if size > LARGEST_CONTEXT:
        raise errors.PreconditionError(
            f"what describes real volume {name} takes {size} bytes, CSI allows {LARGEST_CONTEXT}: "
            "its volumeAttributes or mountOptions are too long; use a real class that makes "
            "volumes with fewer"
        )


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
        found = msgspec.json.decode(context.get(SOURCE_KEY, ""), type=Source)
    except msgspec.DecodeError as error:
        raise errors.InvalidRequestError(f"volume_context.source is malformed: {error}") from error
    _check_csi(found)
    return found


def _check_csi(found: Source) -> None:
    if (found.kind is Kind.CSI) != (found.csi is not None):
        raise errors.InvalidRequestError(
            f"volume_context.source is malformed: kind {found.kind.value} "
            f"{'without' if found.csi is None else 'with'} csi"
        )
    if found.csi is None:
        return
    if not found.csi.handle:
        raise errors.InvalidRequestError("volume_context.source is malformed: no csi.handle")
    for field, value, form in (
        ("driver", found.csi.driver, _DRIVER_NAME),
        ("persistent_volume", found.csi.persistent_volume, _OBJECT_NAME),
    ):
        if not form.fullmatch(value):
            raise errors.InvalidRequestError(
                f"volume_context.source is malformed: csi.{field} is {value!r}"
            )
