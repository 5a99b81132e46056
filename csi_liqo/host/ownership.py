"""Giving a tree of files to a group, whatever is in it.

Pods made the tree, so nothing in it is trusted: every entry is opened without
following a link and changed through what was opened, and no other mount is
entered. The modes are kubelet's (kubernetes v1.37.2, volume_linux.go): readable
and writable by the group, folders hand the group on.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import Final

from csi_liqo.host import syscalls
from csi_liqo.model import errors
from csi_liqo.service.node import ports

logger = logging.getLogger(__name__)

FILE_MODE: Final = 0o660
FOLDER_MODE: Final = 0o770 | stat.S_ISGID
DEEPEST: Final = 512
"""Folders inside each other: each is held open while its own are worked on."""

_RESOLVE: Final = (
    syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
)


def give(root: int, group: int, progress: ports.Progress) -> None:
    """Give a tree to a group, its root last; done already when the root has it.

    What cannot be changed is left and told in the log, as kubelet does: some
    filesystems keep owners to themselves.

    Raises:
        errors.OutcomeUnknownError: it is too deep.
        OSError: something in it cannot be read.
    """
    if _matches(os.fstat(root), group):
        return
    refused = _Refused()
    stack: list[tuple[int, list[str]]] = []
    try:
        top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        stack.append((top, []))
        stack[-1][1].extend(_give_files(top, group, progress, refused))
        while stack and not progress.stop:
            folder, inner = stack[-1]
            if not inner:
                _change(folder, group, refused)
                os.close(stack.pop()[0])
                continue
            if len(stack) == DEEPEST:
                raise errors.OutcomeUnknownError(f"folders are nested deeper than {DEEPEST}")
            below = _open(folder, inner.pop(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if below is not None:
                stack.append((below, []))
                stack[-1][1].extend(_give_files(below, group, progress, refused))
    finally:
        for folder, _ in stack:
            os.close(folder)
    if refused.count:
        logger.warning(
            "%d files could not be given to group %d: %s", refused.count, group, refused.first
        )


class _Refused:
    count = 0
    first = ""


def _give_files(folder: int, group: int, progress: ports.Progress, refused: _Refused) -> list[str]:
    """Change all in a folder but its folders; return the names of these."""
    inner: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if progress.stop:
                return []
            progress.entries += 1
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
                continue
            opened = _open(folder, entry.name, os.O_PATH | os.O_NOFOLLOW)
            if opened is not None:
                try:
                    _change(opened, group, refused)
                finally:
                    os.close(opened)
    return inner


def _open(folder: int, name: str, flags: int) -> int | None:
    """Open an entry; None for one that went away, became a link, or is another mount."""
    try:
        return syscalls.openat2(folder, name, flags=flags, resolve=_RESOLVE)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            raise
        return None


def _matches(facts: os.stat_result, group: int) -> bool:
    wanted = _wanted_mode(facts)
    return facts.st_gid == group and facts.st_mode & wanted == wanted


def _wanted_mode(facts: os.stat_result) -> int:
    if stat.S_ISLNK(facts.st_mode):
        return 0
    return FOLDER_MODE if stat.S_ISDIR(facts.st_mode) else FILE_MODE


def _change(opened: int, group: int, refused: _Refused) -> None:
    facts = os.fstat(opened)
    if _matches(facts, group):
        return
    # An O_PATH descriptor can be changed by this name only, which leads to it and no other.
    path = f"/proc/self/fd/{opened}"
    try:
        if facts.st_gid != group:
            os.chown(path, -1, group)
        if not stat.S_ISLNK(facts.st_mode):
            # Also what chown took away: the kernel clears the bits that change an identity.
            os.chmod(path, stat.S_IMODE(facts.st_mode) | _wanted_mode(facts))
    except OSError as error:
        refused.count += 1
        refused.first = refused.first or str(error.strerror)
