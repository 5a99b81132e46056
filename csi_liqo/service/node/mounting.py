"""How a volume is to be mounted: decisions, and nothing that touches the machine."""

from __future__ import annotations

import enum
import posixpath
from typing import Final

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import ports

MOUNT_OPTIONS: Final = frozenset(
    {
        *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "symfollow"),
        *("nosymfollow", "atime", "relatime", "norelatime", "noatime", "strictatime"),
        *("diratime", "nodiratime", "defaults"),
    }
)
"""Options of one mount, not of a filesystem: all that a bind mount can be given."""

FILESYSTEMS: Final = ("ext4", "ext3", "xfs")
"""What a device can hold; the first is the default, as kubelet's."""

_READERS: Final = frozenset(
    {volumes.AccessMode.SINGLE_NODE_READER_ONLY, volumes.AccessMode.MULTI_NODE_READER_ONLY}
)


class Way(enum.Enum):
    """How the real volume comes to a pod."""

    DIRECTORY = "its directory is bind-mounted at publish"
    DEVICE = "its device node is bind-mounted onto a file at publish"
    FILESYSTEM = "its device's filesystem is mounted at stage and bind-mounted at publish"


def check_path(path: str, folder: str, field: str) -> str:
    """Return a path from a request.

    Raises:
        errors.InvalidRequestError: it is not absolute and plain, or not below the folder.
    """
    if not path.startswith("/") or posixpath.normpath(path) != path:
        raise errors.InvalidRequestError(f"{field} {path!r} is not a plain absolute path")
    if not path.startswith(f"{folder.rstrip('/')}/"):
        raise errors.InvalidRequestError(
            f"{field} {path!r} is not below {folder}: start the node role with --kubelet-dir "
            "set to kubelet's --root-dir"
        )
    return path


def read_source(
    volume_id: str,
    context: dict[str, str],
    capability: volumes.VolumeCapability,
    node_name: str,
) -> source.Source:
    """Return where a volume's bytes are on this node.

    Raises:
        errors.InvalidRequestError: the context or the asked volume mode cannot be the volume's.
        errors.PreconditionError: the bytes are in another cluster.
    """
    found = source.from_context(context)
    if found.kind is source.Kind.REMOTE:
        raise errors.PreconditionError(
            f"volume {volume_id} is in another cluster and cannot be mounted on node {node_name}: "
            "run the pod on the virtual node of the cluster in the volume's node affinity"
        )
    if found.volume_mode is not capability.volume_mode:
        raise errors.InvalidRequestError(
            f"volume {volume_id} has volume mode {found.volume_mode.value}, "
            f"{capability.volume_mode.value} was asked for"
        )
    return found


def choose_way(found: source.Source, place: ports.Place) -> Way:
    """Decide how a volume is mounted.

    Raises:
        errors.PreconditionError: what is at the path cannot serve the volume.
    """
    match found.volume_mode, place.kind, found.kind:
        case source.VolumeMode.BLOCK, ports.PlaceKind.BLOCK_DEVICE, _:
            return Way.DEVICE
        case source.VolumeMode.FILESYSTEM, ports.PlaceKind.DIRECTORY, _:
            return Way.DIRECTORY
        case source.VolumeMode.FILESYSTEM, ports.PlaceKind.BLOCK_DEVICE, source.Kind.LOCAL:
            return Way.FILESYSTEM
        case _:
            raise errors.PreconditionError(
                f"{found.path} is {place.kind.value}, which cannot serve a {found.kind.value} "
                f"volume of mode {found.volume_mode.value}"
            )


def options_of(found: source.Source, capability: volumes.VolumeCapability) -> tuple[str, ...]:
    """Return the real volume's mount options, then the virtual one's, single words each."""
    given = (*found.mount_options, *capability.mount_flags)
    return tuple(word for option in given for word in option.split(",") if word)


def is_read_only(
    options: tuple[str, ...], capability: volumes.VolumeCapability, *, read_only: bool = False
) -> bool:
    """Tell whether a volume is to be published without writes."""
    last = [option for option in options if option in ("ro", "rw")][-1:]
    return read_only or capability.access_mode in _READERS or last == ["ro"]


def bind_options(way: Way, options: tuple[str, ...], *, read_only: bool) -> tuple[str, ...]:
    """Return the options for the bind mount of a publish.

    A filesystem's own options took effect when it was staged.

    Raises:
        errors.PreconditionError: an option that a bind mount cannot have.
    """
    foreign = [option for option in options if option not in MOUNT_OPTIONS]
    if foreign and way is not Way.FILESYSTEM:
        raise errors.PreconditionError(
            f"mount option {foreign[0]!r} has no effect on a bind mount, which this volume "
            "needs: remove it from the StorageClass or the PersistentVolume"
        )
    kept = tuple(option for option in options if option in MOUNT_OPTIONS)
    return (*kept, "ro") if read_only else kept


def choose_filesystem(
    found: source.Source, capability: volumes.VolumeCapability, existing: str, *, read_only: bool
) -> str:
    """Decide which filesystem a device is mounted with; made first when ``existing`` is empty.

    What is there is used, unless the real volume says it should be another one. The
    virtual class's filesystem counts for a blank device only: the provisioner sets it
    on every volume.

    Raises:
        errors.PreconditionError: what is there is not what should be, or nothing is and
            nothing may be written, or this driver does not know it.
    """
    if existing and found.fs_type not in ("", existing):
        raise errors.PreconditionError(
            f"{found.path} holds {existing}, the real volume's fsType is {found.fs_type}: "
            "correct the PersistentVolume; nothing is formatted over data"
        )
    if not existing and read_only:
        raise errors.PreconditionError(
            f"{found.path} is blank and its mount options say ro: format it beforehand"
        )
    chosen = existing or found.fs_type or capability.fs_type or FILESYSTEMS[0]
    if chosen not in FILESYSTEMS:
        raise errors.PreconditionError(
            f"{found.path} would be mounted as {chosen!r}; this driver knows "
            f"{', '.join(FILESYSTEMS)}"
        )
    return chosen
