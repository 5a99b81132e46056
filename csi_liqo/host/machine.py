"""This machine's mounts and devices, as the node's use cases ask for them."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import posixpath
import stat
from collections.abc import Iterator
from typing import Final

from csi_liqo.host import devices, folders, mountinfo, ownership, paths, syscalls
from csi_liqo.model import errors
from csi_liqo.service.node import ports, requests

_ATIME: Final = syscalls.MOUNT_ATTR_ATIME
OPTIONS: Final[dict[str, tuple[int, int]]] = {
    # option: bits to set, bits to clear
    "ro": (syscalls.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, syscalls.MOUNT_ATTR_RDONLY),
    "nosuid": (syscalls.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, syscalls.MOUNT_ATTR_NOSUID),
    "nodev": (syscalls.MOUNT_ATTR_NODEV, 0),
    "dev": (0, syscalls.MOUNT_ATTR_NODEV),
    "noexec": (syscalls.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, syscalls.MOUNT_ATTR_NOEXEC),
    "nosymfollow": (syscalls.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
    "nodiratime": (syscalls.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, syscalls.MOUNT_ATTR_NODIRATIME),
    "noatime": (syscalls.MOUNT_ATTR_NOATIME, _ATIME),
    "strictatime": (syscalls.MOUNT_ATTR_STRICTATIME, _ATIME),
    "relatime": (0, _ATIME),
    "norelatime": (0, _ATIME),
    "atime": (0, _ATIME),
    "defaults": (0, 0),
}

_UNMOUNT_ROUNDS: Final = 64


class Machine:
    """Implements ``service.node.ports.Host`` on Linux.

    ``host_root`` is where the host's root folder shows in this mount namespace,
    ``kubelet_dir`` kubelet's folder, at the same path here as on the host.
    """

    def __init__(self, *, host_root: pathlib.Path, kubelet_dir: pathlib.Path) -> None:
        self._host_root = host_root
        self._kubelet_dir = kubelet_dir

    @contextlib.contextmanager
    def source(self, path: str) -> Iterator[ports.Place | None]:
        with paths.in_root(self._host_root, path) as descriptor:
            root = os.path.realpath(self._host_root).rstrip("/")
            yield None if descriptor is None else _place(descriptor, root)

    @contextlib.contextmanager
    def staged(self, path: str) -> Iterator[ports.Place | None]:
        with paths.below(self._kubelet_dir, path) as descriptor:
            yield None if descriptor is None else _place(descriptor)

    def mounted(self, path: str) -> ports.Mounted | None:
        at_path = mountinfo.read_at(self._real(path))
        if not at_path:
            return None
        with paths.below(self._kubelet_dir, path) as descriptor:
            if descriptor is None:  # unmounted and removed meanwhile
                return None
            place = _place(descriptor)
        shown = at_path[-1]
        return ports.Mounted(
            identity=place.identity,
            device_number=place.device_number or shown.device,
            read_only="ro" in shown.options,
            fs_type=shown.fs_type,
        )

    def shown(self, path: str) -> ports.Shown | None:
        at_path = mountinfo.read_at(self._real(path))
        if not at_path:
            return None
        mount = at_path[-1]
        return ports.Shown(
            mount_id=mount.id,
            device=mount.device,
            root=mount.root,
            read_only="ro" in mount.options,
        )

    def mounted_elsewhere(self, place: ports.Place, path: str) -> tuple[str, ...]:
        mounts = mountinfo.read()
        number = mountinfo.of_descriptor(place.descriptor)
        through = next(mount for mount in mounts if mount.id == number)
        below_point = posixpath.relpath(place.path, through.point)
        root = posixpath.normpath(posixpath.join(through.root, below_point))
        folder = f"{self._real(str(self._kubelet_dir))}/"
        return tuple(
            mount.point
            for mount in mounts
            if (mount.device, mount.root) == (through.device, root)
            and mount.id != through.id
            and mount.point.startswith(folder)
            and mount.point != self._real(path)
            # kubelet's own bind mounts for subPath, one a container.
            and "/volume-subpaths/" not in mount.point
        )

    def ensure_target(self, path: str, kind: ports.PlaceKind) -> None:
        wants_folder = kind is ports.PlaceKind.DIRECTORY
        with self._parent(path) as (parent, name):
            if parent is None:
                raise errors.PreconditionError(
                    f"folder {posixpath.dirname(path)} does not exist: whoever asks to publish "
                    "makes it first"
                )
            try:
                if wants_folder:
                    os.mkdir(name, 0o750, dir_fd=parent)
                else:
                    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                    os.close(os.open(name, flags, 0o640, dir_fd=parent))
            except FileExistsError:
                _check_empty(path, name, parent, wants_folder=wants_folder)

    def bind(self, place: ports.Place, path: str, options: tuple[str, ...]) -> None:
        set_bits = clear_bits = 0
        for option in options:  # a later one overrules an earlier
            to_set, to_clear = OPTIONS[option]
            set_bits = (set_bits & ~to_clear) | to_set
            clear_bits = (clear_bits & ~to_set) | to_clear
        # The kernel wants all bits of the access time cleared whenever one is set.
        clear_bits |= _ATIME if set_bits & _ATIME else 0
        recursive = place.kind is ports.PlaceKind.DIRECTORY
        tree = syscalls.clone_tree(place.descriptor, recursive=recursive)
        try:
            syscalls.make_private(tree, set_bits=set_bits, clear_bits=clear_bits)
            with paths.below(self._kubelet_dir, path) as target:
                if target is None:
                    raise FileNotFoundError(path)
                syscalls.attach(tree, target)
        finally:
            os.close(tree)

    def unmount(self, path: str) -> None:
        point = self._real(path)
        for _ in range(_UNMOUNT_ROUNDS):
            found = mountinfo.with_descendants(mountinfo.read(), point)
            if not found:
                return
            for mount in found:
                syscalls.unmount(mount.point)
        raise errors.OutcomeUnknownError(f"something mounts at {path} again and again")

    def ensure_folder(self, path: str) -> None:
        folders.ensure(self._kubelet_dir, path)

    def remove_folder(self, path: str, *, levels: int) -> None:
        folders.remove(self._kubelet_dir, path, levels=levels)

    def give(self, path: str, group: int, progress: ports.Progress) -> None:
        with paths.below(self._kubelet_dir, path) as root:
            if root is None:
                raise FileNotFoundError(path)
            ownership.give(root, group, progress)

    def remove_target(self, path: str) -> None:
        with self._parent(path) as (parent, name):
            if parent is None:
                return
            try:
                kind = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
                if stat.S_ISDIR(kind):
                    os.rmdir(name, dir_fd=parent)
                elif stat.S_ISREG(kind):
                    _check_empty(path, name, parent, wants_folder=False)
                    os.unlink(name, dir_fd=parent)
                else:
                    raise errors.PreconditionError(f"{path} is nothing that a volume leaves behind")
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                raise errors.PreconditionError(
                    f"{path} is not removed, because it holds what is not the volume's: move it "
                    "away"
                ) from error

    def filesystem_of(self, place: ports.Place) -> str:
        return devices.filesystem_of(place.path, place.name)

    def format(self, place: ports.Place, fs_type: str) -> None:
        devices.make_filesystem(place.path, fs_type)

    def mount(self, place: ports.Place, path: str, fs_type: str, options: tuple[str, ...]) -> None:
        if "ro" not in options:
            devices.check_filesystem(place.path)
        with paths.below(self._kubelet_dir, path) as target:
            if target is None:
                raise FileNotFoundError(path)
        devices.mount_filesystem(place.path, path, fs_type, options)

    def usage(self, path: str, kind: ports.PlaceKind) -> requests.Usage:
        if kind is ports.PlaceKind.BLOCK_DEVICE:
            return requests.Usage(total_bytes=devices.size_of(path), block=True)
        facts = os.statvfs(path)
        return requests.Usage(
            total_bytes=facts.f_blocks * facts.f_frsize,
            used_bytes=(facts.f_blocks - facts.f_bfree) * facts.f_frsize,
            available_bytes=facts.f_bavail * facts.f_frsize,
            total_inodes=facts.f_files,
            used_inodes=facts.f_files - facts.f_ffree,
            available_inodes=facts.f_favail,
        )

    def _real(self, path: str) -> str:
        """Return a path below kubelet's folder as the mount table has it."""
        relative = posixpath.relpath(path, self._kubelet_dir)
        return posixpath.normpath(posixpath.join(os.path.realpath(self._kubelet_dir), relative))

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int | None, str]]:
        folder, name = posixpath.split(path)
        with paths.below(self._kubelet_dir, folder) as descriptor:
            yield descriptor, name


def _place(descriptor: int, root: str = "") -> ports.Place:
    facts = os.fstat(descriptor)
    number = mountinfo.of_descriptor(descriptor)
    through = next((mount for mount in mountinfo.read() if mount.id == number), None)
    kinds = {stat.S_IFDIR: ports.PlaceKind.DIRECTORY, stat.S_IFBLK: ports.PlaceKind.BLOCK_DEVICE}
    kind = kinds.get(stat.S_IFMT(facts.st_mode), ports.PlaceKind.OTHER)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    return ports.Place(
        descriptor=descriptor,
        path=path,
        name=path.removeprefix(root) or "/",
        kind=kind,
        identity=ports.Identity(device=facts.st_dev, inode=facts.st_ino),
        device_number=facts.st_rdev if kind is ports.PlaceKind.BLOCK_DEVICE else 0,
        read_only=through is not None and "ro" in through.options,
    )


def _check_empty(path: str, name: str, parent: int, *, wants_folder: bool) -> None:
    """A mount point hides what is in it, so nothing may be."""
    facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if wants_folder and stat.S_ISDIR(facts.st_mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        try:
            empty = not os.listdir(descriptor)
        finally:
            os.close(descriptor)
    else:
        empty = not wants_folder and stat.S_ISREG(facts.st_mode) and facts.st_size == 0
    if not empty:
        raise errors.PreconditionError(
            f"{path} holds something that is not the volume's, which mounting would hide: "
            "move it away"
        )
