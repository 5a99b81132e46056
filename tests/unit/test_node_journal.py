"""The journal: what survives, what is refused, and files that are whole or not there."""

from __future__ import annotations

import json
import pathlib

import pytest

from csi_liqo.host import journal as journal_files
from csi_liqo.model import errors, source
from csi_liqo.service.node import journal

RECORD = journal.Record(
    volume_id="pvc-1",
    source=source.Source(kind=source.Kind.LOCAL, path="/dev/x", mount_options=("noatime",)),
    staging_path="/k/stage",
)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "plugins" / "journal"


@pytest.fixture
def records(folder: pathlib.Path) -> journal.Journal:
    return journal.Journal(journal_files.JournalFiles(folder))


def test_a_record_is_read_as_it_was_written(records: journal.Journal) -> None:
    records.write(RECORD)
    assert records.read("pvc-1") == RECORD
    assert records.read("pvc-2") is None


def test_the_format_is_this_one(records: journal.Journal, folder: pathlib.Path) -> None:
    """Later versions must read what this one wrote: change the version with the format."""
    records.write(RECORD)
    assert json.loads((folder / "pvc-1.json").read_text()) == {
        "version": 2,
        "volumeId": "pvc-1",
        "source": {"kind": "local", "path": "/dev/x", "mount_options": ["noatime"]},
        "stagingPath": "/k/stage",
        "realStagingPath": "",
    }


def test_a_record_has_one_file_for_its_owner_and_leaves_none(
    records: journal.Journal, folder: pathlib.Path
) -> None:
    records.write(RECORD)
    assert [path.name for path in folder.iterdir()] == ["pvc-1.json"]
    assert (folder / "pvc-1.json").stat().st_mode & 0o777 == 0o600
    records.remove("pvc-1")
    records.remove("pvc-1")
    assert list(folder.iterdir()) == []


def test_a_known_record_is_not_written_again(
    records: journal.Journal, folder: pathlib.Path
) -> None:
    records.write(RECORD)
    before = (folder / "pvc-1.json").stat().st_ino
    records.write(RECORD)
    assert (folder / "pvc-1.json").stat().st_ino == before


def test_an_earlier_formats_record_is_read_and_written_anew(
    records: journal.Journal, folder: pathlib.Path
) -> None:
    earlier = {
        "version": 1,
        "volumeId": "pvc-1",
        "source": {"kind": "local", "path": "/dev/x", "mount_options": ["noatime"]},
        "stagingPath": "/k/stage",
    }
    (folder / "pvc-1.json").write_text(json.dumps(earlier))
    assert records.read("pvc-1") == RECORD
    assert json.loads((folder / "pvc-1.json").read_text()) == earlier
    records.write(RECORD)
    assert json.loads((folder / "pvc-1.json").read_text())["version"] == 2


def test_a_later_versions_record_is_neither_read_nor_replaced_nor_removable(
    records: journal.Journal, folder: pathlib.Path
) -> None:
    later = '{"version": 3, "volumeId": "pvc-1", "new": []}'
    (folder / "pvc-1.json").write_text(later)
    told = "format 3, this driver knows 2"
    with pytest.raises(errors.PreconditionError, match=told):
        records.read("pvc-1")
    with pytest.raises(errors.PreconditionError, match=told):
        records.write(RECORD)
    with pytest.raises(errors.PreconditionError, match=told):
        records.find("pvc-1")
    assert (folder / "pvc-1.json").read_text() == later


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": "x"}'])
def test_an_unreadable_record_says_so_and_can_be_replaced_or_removed(
    records: journal.Journal, folder: pathlib.Path, content: str
) -> None:
    (folder / "pvc-1.json").write_text(content)
    with pytest.raises(journal.CorruptRecordError, match="unreadable"):
        records.read("pvc-1")
    records.find("pvc-1")
    records.write(RECORD)
    assert records.read("pvc-1") == RECORD


def test_what_an_interrupted_write_left_is_overwritten_and_removed(
    records: journal.Journal, folder: pathlib.Path
) -> None:
    (folder / ".pvc-1.json.tmp").write_text("half a rec")
    assert records.read("pvc-1") is None
    records.write(RECORD)
    assert records.read("pvc-1") == RECORD
    (folder / ".pvc-1.json.tmp").write_text("half a rec")
    records.remove("pvc-1")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "volume_id", ["../../etc/passwd", ".", "UPPER", "a/b", "x" * 64, "a.b", "ä"]
)
def test_an_id_that_is_no_safe_name_becomes_a_hash(volume_id: str) -> None:
    name = journal.file_name(volume_id)
    assert name.startswith("sha256-")
    assert len(name) == len("sha256-") + 64 + len(".json")


def test_an_id_that_looks_like_a_hash_does_not_share_its_file() -> None:
    hashed = journal.file_name("a/b").removesuffix(".json")
    assert journal.file_name(hashed) != f"{hashed}.json"
