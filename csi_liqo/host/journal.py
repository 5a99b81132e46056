"""The journal's files, which outlive a crash of this program and of the machine."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Final

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class JournalFiles:
    """Files of one folder, each written beside its place and renamed.

    One is there whole or not at all, whenever this program dies. One for which ``write``
    returned is there after a power cut, too.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = os.fspath(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when there is none."""
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file; on return it is on the disk.

        What is replaced must not be lost before its successor is on the disk. A new file is
        renamed first, so that the disk writes content and name in one go and the sync of the
        folder finds little to do. A power cut meanwhile may leave its name without its content,
        which is as good as none: nothing is mounted before this returns.
        """
        # One name a file: what a crash leaves here is overwritten by the next attempt.
        temporary, path = self._path(f".{name}.tmp"), self._path(name)
        with os.fdopen(os.open(temporary, _WRITE, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            if os.path.exists(path):
                os.fsync(file.fileno())
            os.rename(temporary, path)
            os.fsync(file.fileno())
        self._sync()

    def remove(self, name: str) -> None:
        """Remove a file and what an interrupted write of it left; absent is fine.

        Not synced, because nothing is lost with it. When the power fails so soon that the file
        is back, so is what kubelet keeps of the volume on the same disk and removes later,
        equally unsynced: it asks for Unstage again, and that needs the file.
        """
        for path in (self._path(f".{name}.tmp"), self._path(name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _sync(self) -> None:
        descriptor = os.open(self._folder, _FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
