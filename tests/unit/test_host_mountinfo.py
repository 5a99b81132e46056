"""The mount table's text, and which mounts belong to a place."""

from __future__ import annotations

import os

from csi_liqo.host import mountinfo

TABLE = rb"""22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 28 8:1 /data/a\040b /k/pods/a\040b/mount ro,noatime shared:2 master:1 - ext4 /dev/sda1 rw
41 40 0:40 / /k/pods/a\040b/mount/sub rw - tmpfs none rw,size=1k
42 40 0:41 / /k/pods/a\040b/mount rw - tmpfs none rw
43 28 0:42 / /k/pods/other rw - tmpfs none rw
"""


def test_fields_are_read_with_and_without_the_optional_ones() -> None:
    mounts = mountinfo.parse(TABLE)
    assert mounts[2] == mountinfo.Mount(
        id=40,
        parent=28,
        device=os.makedev(8, 1),
        root="/data/a b",
        point="/k/pods/a b/mount",
        options=frozenset({"ro", "noatime"}),
        fs_type="ext4",
    )
    assert mounts[3].fs_type == "tmpfs"


def test_the_one_that_shows_is_the_last() -> None:
    found = mountinfo.at(mountinfo.parse(TABLE), "/k/pods/a b/mount")
    assert [mount.id for mount in found] == [40, 42]


def test_a_path_is_found_whether_the_table_escapes_it_or_not() -> None:
    mounts = mountinfo.parse(TABLE)
    for point in {mount.point for mount in mounts} | {"/k/pods", "/k/pods/other/", "rw"}:
        assert mountinfo.parse_at(TABLE, point) == mountinfo.at(mounts, point)


def test_what_hangs_on_a_mount_comes_before_it() -> None:
    found = [
        mount.id
        for mount in mountinfo.with_descendants(mountinfo.parse(TABLE), "/k/pods/a b/mount")
    ]
    assert sorted(found) == [40, 41, 42]
    assert found.index(41) < found.index(40)
    assert found.index(42) < found.index(40)


def test_what_is_below_a_folder_that_is_no_mount_is_somebody_elses() -> None:
    assert mountinfo.with_descendants(mountinfo.parse(TABLE), "/k/pods") == ()


def test_the_real_table_has_this_process_root() -> None:
    assert mountinfo.at(mountinfo.read(), "/")
    descriptor = os.open("/proc", os.O_PATH)
    try:
        number = mountinfo.of_descriptor(descriptor)
    finally:
        os.close(descriptor)
    assert any(mount.id == number and mount.point == "/proc" for mount in mountinfo.read())
