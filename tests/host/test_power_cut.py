"""What the journal has after a power cut at any moment of a write, on real file systems."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.host import node_box
from tests.host.cutting_power import NEW, OLD

_SCRIPT = """
set -e
truncate --size "$2" image
"mkfs.$1" -q image
mkdir disk found
mount -o loop image disk
"$4" -m tests.host.cutting_power image disk
umount disk
for cut in cut-*; do
    mount -o "loop$3" "$cut" disk
    if [ -e disk/journal/v.json ]; then cp disk/journal/v.json "found/$cut"; fi
    umount disk
done
"""


@pytest.mark.parametrize(
    ("fs_type", "size", "options"), [("ext4", "64M", ""), ("xfs", "320M", ",nouuid")]
)
def test_a_record_is_never_lost_once_it_is_written(
    tmp_path: pathlib.Path, fs_type: str, size: str, options: str
) -> None:
    subprocess.run(
        [
            *("unshare", "--mount", "--propagation=private"),
            *("sh", "-c", _SCRIPT, "sh", fs_type, size, options, sys.executable),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(node_box.ROOT)},
        check=True,
    )
    cuts = {path.name: tmp_path / "found" / path.name for path in sorted(tmp_path.glob("cut-*"))}
    found = {name: path.read_bytes() if path.exists() else None for name, path in cuts.items()}
    # While it is first written nothing is mounted yet: its name alone is as good as none.
    allowed: dict[str, set[bytes | None]] = {
        "first": {None, b"", OLD},
        "written": {OLD},
        "again": {OLD, NEW},
        "rewritten": {NEW},
    }
    stages = [name.rpartition("-")[2] for name in found]
    assert set(stages) == set(allowed)
    for stage, (name, content) in zip(stages, found.items(), strict=True):
        assert content in allowed[stage], (name, content)
