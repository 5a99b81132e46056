"""What the account of a node notices, in a real mount namespace of its own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from lab import leaks

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

VOLUME = "pods/1-2/volumes/kubernetes.io~csi/pvc-1"
# A node as the lab makes one: its folder is /var/lib/kubelet in its mount namespace only.
NODE = """
set -e
mount --make-rprivate /
mkdir -p /var/lib/kubelet
mount --bind "$1" /var/lib/kubelet
mkdir -p "/var/lib/kubelet/$2/mount"
mount -t tmpfs none "/var/lib/kubelet/$2/mount"
mkdir -p /var/lib/kubelet/pods/1-2/volumes/kubernetes.io~empty-dir/scratch
mount -t tmpfs none /var/lib/kubelet/pods/1-2/volumes/kubernetes.io~empty-dir/scratch
echo ready
read -r _
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "kubelet"
    path.mkdir()
    return path


@pytest.fixture
def node(folder: pathlib.Path) -> Iterator[int]:
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", NODE, "sh", str(folder), VOLUME],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid


def test_a_mount_is_named_and_belongs_to_whom_kubelet_wrote_down(
    node: int, folder: pathlib.Path
) -> None:
    (folder / VOLUME / "vol_data.json").write_text(json.dumps({"driverName": "csi.liqo.io"}))

    found = leaks.snapshot_node("rome-1", node)

    lines = [str(entry) for entry in found.ours]
    assert lines == [
        f"rome-1: kubelet directory {VOLUME}",
        f"rome-1: mount /var/lib/kubelet/{VOLUME}/mount",
    ]


def test_volumes_of_other_drivers_are_not_ours(node: int, folder: pathlib.Path) -> None:
    (folder / VOLUME / "vol_data.json").write_text(json.dumps({"driverName": "ebs.csi.aws.com"}))

    found = leaks.snapshot_node("rome-1", node)

    assert found.ours == []
    assert len(found.entries) == 2


def test_journal_and_staging_directory_are_accounted_for(node: int, folder: pathlib.Path) -> None:
    before = leaks.snapshot_node("rome-1", node)
    journal = folder / "plugins" / "csi.liqo.io" / "journal"
    journal.mkdir(parents=True)
    (journal / "pvc-1").write_text("{}")
    (folder / "plugins" / "kubernetes.io" / "csi" / "csi.liqo.io" / "abc").mkdir(parents=True)

    after = leaks.snapshot_node("rome-1", node)

    assert leaks.difference(before, after) == [
        "+ rome-1: journal file csi.liqo.io/journal/pvc-1",
        "+ rome-1: kubelet directory plugins/kubernetes.io/csi/csi.liqo.io/abc",
    ]
    assert len(after.ours) == 2


def test_a_loop_device_is_accounted_for_by_its_file(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1024 * 1024))
    before = leaks.snapshot_loop_devices()
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        after = leaks.snapshot_loop_devices()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)

    assert f"+ host: loop device {image}" in leaks.difference(before, after)


def test_a_node_that_is_gone_is_an_error(node: int) -> None:
    with pytest.raises(OSError, match="mountinfo"):
        leaks.snapshot_node("rome-1", 2**22 + 1)
