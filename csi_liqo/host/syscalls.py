"""The Linux calls that Python does not wrap, through libc's ``syscall``.

No maintained package offers them, and the mount(8) program works by path
strings and in steps. These work on open descriptors and let a bind mount be
prepared unseen (cloned, made read-only and private) and then appear at once:
after a crash a target is either published as asked or not at all.

Linux 5.12 or later (mount_setattr). The numbers are the same on every
architecture that Linux gained since 5.2.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_ATIME: Final = 0x70
"""All the bits of the access time's setting; 0 in them is relatime."""
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000

_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
_MS_PRIVATE: Final = 1 << 18
_UMOUNT_NOFOLLOW: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def openat2(folder: int, path: str, *, flags: int, resolve: int) -> int:
    """Open a path seen from a folder under the rules of ``resolve``; return a descriptor."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=0, resolve=resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    encoded = ctypes.c_char_p(os.fsencode(path))
    return _call(path, _SYS_OPENAT2, ctypes.c_int(folder), encoded, ctypes.byref(how), size)


def clone_tree(descriptor: int, *, recursive: bool) -> int:
    """Copy the mounts at an open place into a tree that is mounted nowhere yet."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    flags |= _AT_RECURSIVE if recursive else 0
    return _call(
        "open_tree",
        _SYS_OPEN_TREE,
        ctypes.c_int(descriptor),
        ctypes.c_char_p(b""),
        ctypes.c_uint(flags),
    )


def make_private(tree: int, *, set_bits: int, clear_bits: int) -> None:
    """Cut a tree's mounts from their origin's peers, and change their attributes.

    NB: without it, unmounting the copy of a submount would unmount the original
    too wherever the source is on a shared mount (mount_namespaces(7)).
    """
    attributes = _MountAttributes(
        attr_set=set_bits, attr_clr=clear_bits, propagation=_MS_PRIVATE, userns_fd=0
    )
    _call(
        "mount_setattr",
        _SYS_MOUNT_SETATTR,
        ctypes.c_int(tree),
        ctypes.c_char_p(b""),
        ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def attach(tree: int, target: int) -> None:
    """Mount a cloned tree on an open target."""
    _call(
        "move_mount",
        _SYS_MOVE_MOUNT,
        ctypes.c_int(tree),
        ctypes.c_char_p(b""),
        ctypes.c_int(target),
        ctypes.c_char_p(b""),
        ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH),
    )


def unmount(path: str) -> None:
    """Unmount the topmost mount at a path; a link there is not followed."""
    if _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW) != 0:
        _raise(path)


def _call(about: str, *arguments: object) -> int:
    result = int(_libc.syscall(*arguments))
    if result < 0:
        _raise(about)
    return result


def _raise(about: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), about)
