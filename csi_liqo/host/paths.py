"""Opening paths that others wrote, without being led astray by links.

A path of a real volume is resolved as if the host's root folder were ``/``
(openat2 with RESOLVE_IN_ROOT): a link may lead anywhere on the host, an
absolute one too, and never into this container. A path from kubelet is
resolved below kubelet's own folder with no links at all. What was looked at
stays open, so it is what is then mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Final

from csi_liqo.host import syscalls

_TRIES: Final = 16
"""openat2 answers EAGAIN when a rename elsewhere made its check uncertain."""

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


@contextlib.contextmanager
def in_root(root: pathlib.Path, path: str) -> Iterator[int | None]:
    """Hold what an absolute path of the host names; None when nothing is there."""
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    with _opened(root, path.lstrip("/") or ".", resolve) as descriptor:
        yield descriptor


@contextlib.contextmanager
def below(folder: pathlib.Path, path: str) -> Iterator[int | None]:
    """Hold what an absolute path below a folder names; None when nothing is there.

    Raises:
        OSError: ELOOP where a link is on the way.
    """
    relative = posixpath.relpath(path, folder)
    resolve = (
        syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
    )
    with _opened(folder, relative, resolve) as descriptor:
        yield descriptor


@contextlib.contextmanager
def _opened(folder: pathlib.Path, relative: str, resolve: int) -> Iterator[int | None]:
    start = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _open(start, relative, resolve)
    finally:
        os.close(start)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(start: int, relative: str, resolve: int) -> int | None:
    for attempt in range(_TRIES):
        try:
            return syscalls.openat2(start, relative, flags=os.O_PATH, resolve=resolve)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            if error.errno != errno.EAGAIN or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last try returned or raised")
