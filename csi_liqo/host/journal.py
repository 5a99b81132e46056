"""The journal's files: each there whole, or not at all, whatever crashes when."""

from __future__ import annotations

import contextlib
import os
import pathlib


class JournalFiles:
    """Files of one folder, written by temporary file, fsync, rename and fsync of the folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file; on return it is on the disk."""
        # One name a file: what a crash leaves here is overwritten by the next attempt.
        temporary = self._folder / f".{name}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)
        self._sync()

    def remove(self, name: str) -> None:
        """Remove a file and what an interrupted write of it left; absent is fine."""
        for path in (self._folder / f".{name}.tmp", self._folder / name):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
