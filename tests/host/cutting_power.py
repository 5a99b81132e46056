"""The journal's files on a disk of their own, which is copied around every sync and rename.

    python -m tests.host.cutting_power IMAGE FOLDER

A copy of the image has what the file system had sent to the disk at that moment, which is
what a machine finds after its power failed then. What is in the copies is for the caller to
say; their names tell when each was made.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from unittest import mock

from csi_liqo.host import journal

NAME = "v.json"
OLD = b'{"old": "%b"}' % (b"o" * 5000)
NEW = b'{"new": "%b"}' % (b"n" * 3000)


class Cuts:
    """Copies of the image, in their order."""

    def __init__(self, image: pathlib.Path) -> None:
        self._image = image
        self._made = 0
        self.stage = ""

    def make(self) -> None:
        copy = self._image.with_name(f"cut-{self._made:02}-{self.stage}")
        self._made += 1
        subprocess.run(["cp", "--sparse=always", str(self._image), str(copy)], check=True)


def main() -> None:
    image, folder = map(pathlib.Path, sys.argv[1:])
    cuts = Cuts(image)
    sync = os.fsync

    def syncing(descriptor: int) -> None:
        cuts.make()
        sync(descriptor)
        cuts.make()

    rename = os.rename

    def renaming(source: str, target: str) -> None:
        """Rename, and have the disk know it first, as any other program's sync may."""
        rename(source, target)
        descriptor = os.open(folder / "journal", os.O_RDONLY)
        sync(descriptor)
        os.close(descriptor)
        cuts.make()

    files = journal.JournalFiles(folder / "journal")
    with mock.patch.object(os, "fsync", syncing), mock.patch.object(os, "rename", renaming):
        cuts.stage = "first"
        files.write(NAME, OLD)
        cuts.stage = "written"
        cuts.make()
        cuts.stage = "again"
        files.write(NAME, NEW)
        cuts.stage = "rewritten"
        cuts.make()


if __name__ == "__main__":
    main()
