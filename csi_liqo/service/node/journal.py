"""What this node was told of each volume, for the calls that bring only an id.

kubelet hands the volume's context to NodeStage and NodePublish alone; Unstage,
Unpublish, Stats and Expand get an id and a path. The journal is written before
anything is mounted and removed after all is unmounted. It says what a volume
is, never whether it is mounted: after a reboot it is there and the mounts are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import Final

import msgspec

from csi_liqo.model import errors, source
from csi_liqo.service.node import ports

VERSION: Final = 2
"""2 came with CSI sources, which a driver of 1 would take for gone and leave staged."""

_SAFE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class CorruptRecordError(errors.OutcomeUnknownError):
    """A file of the journal cannot be read; the next NodeStage writes it anew."""


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One volume's entry.

    ``staging_path`` is the one kubelet made. ``real_staging_path`` is the one the real
    driver was given for a CSI source, empty for others.
    """

    version: int = VERSION
    volume_id: str
    source: source.Source
    staging_path: str
    real_staging_path: str = ""


class _Head(msgspec.Struct, frozen=True):
    version: int


class Journal:
    """The records by volume id."""

    def __init__(self, files: ports.JournalFiles) -> None:
        self._files = files

    def read(self, volume_id: str) -> Record | None:
        """Return a volume's record, None when it was never staged here or is unstaged.

        Raises:
            errors.PreconditionError: a later version of the driver wrote it.
            CorruptRecordError: nobody can read it.
        """
        content = self._files.read(file_name(volume_id))
        return None if content is None else self._decode(volume_id, content)

    def _decode(self, volume_id: str, content: bytes) -> Record:
        try:
            version = msgspec.json.decode(content, type=_Head).version
            if version > VERSION:
                raise errors.PreconditionError(
                    f"the journal of volume {volume_id} has format {version}, this driver knows "
                    f"{VERSION}: a later version wrote it; run that one on this node again"
                )
            # Format 1 is 2 without what only a CSI source has.
            record = msgspec.json.decode(content, type=Record)
            return msgspec.structs.replace(record, version=VERSION)
        except msgspec.DecodeError as error:
            raise CorruptRecordError(
                f"the journal of volume {volume_id} is unreadable ({error}); "
                "it is written anew when the volume is staged"
            ) from error

    def write(self, record: Record) -> None:
        """Write a record, also over an unreadable one or one of an earlier format.

        Raises:
            errors.PreconditionError: a later version's record is there.
        """
        name, content = file_name(record.volume_id), msgspec.json.encode(record)
        known = self._files.read(name)
        if known == content:
            return
        if known is not None:
            with contextlib.suppress(CorruptRecordError):
                self._decode(record.volume_id, known)
        self._files.write(name, content)

    def holds(self, record: Record) -> bool:
        """Tell whether exactly this record is there."""
        return self._files.read(file_name(record.volume_id)) == msgspec.json.encode(record)

    def find(self, volume_id: str) -> Record | None:
        """Return a volume's record; None also when nobody can read it.

        Raises:
            errors.PreconditionError: a later version's record is there, and only that
                version may undo what it did.
        """
        try:
            return self.read(volume_id)
        except CorruptRecordError:
            return None

    def remove(self, volume_id: str) -> None:
        """Forget a volume; an unknown one is forgotten."""
        self._files.remove(file_name(volume_id))


def file_name(volume_id: str) -> str:
    """Return a volume's file name: its id, or a hash where an id is no safe name."""
    if _SAFE_NAME.fullmatch(volume_id):
        return f"{volume_id}.json"
    return f"sha256-{hashlib.sha256(volume_id.encode()).hexdigest()}.json"
