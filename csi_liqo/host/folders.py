"""Making and removing folders below kubelet's own, never through a link."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import posixpath
from typing import Final

from csi_liqo.host import paths
from csi_liqo.model import errors

logger = logging.getLogger(__name__)

_MODE: Final = 0o750
"""As kubelet's own (kubernetes v1.37.2, csi_attacher.go:336)."""
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def ensure(root: pathlib.Path, path: str) -> None:
    """Make a folder and all above it, down from ``root``.

    Raises:
        OSError: something that is no folder is on the way.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in posixpath.relpath(path, root).split("/"):
            try:  # all but the last two are there from the second volume on
                inner = os.open(name, _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, _MODE, dir_fd=folder)
                inner = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
    finally:
        os.close(folder)


def remove(root: pathlib.Path, path: str, *, levels: int) -> None:
    """Remove an empty folder and the empty ones above it, ``levels`` in all.

    What holds something stays, because it is somebody else's.

    Raises:
        errors.OutcomeUnknownError: something is mounted there.
    """
    for _ in range(levels):
        above, name = posixpath.split(path)
        with paths.below(root, above) as folder:
            if folder is not None and not _remove(folder, name, path):
                return
        path = above


def _remove(folder: int, name: str, path: str) -> bool:
    """Return whether it is gone."""
    try:
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise errors.OutcomeUnknownError(
                f"something is still mounted at {path}: the real driver answered that it is not"
            ) from error
        if error.errno != errno.ENOTEMPTY:
            raise
        logger.warning("%s stays, because it is not empty", path)
        return False
    return True
