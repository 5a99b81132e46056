"""Block devices of the node: raw, and with a filesystem that is never made over data."""

from __future__ import annotations

import os
import pathlib
import stat
import struct
import subprocess

import pytest

from tests.host.kubelet_calls import Kubelet, capability, host_path, local, refused


def seen(node: Kubelet, path: str) -> pathlib.Path:
    return node.box.path(pathlib.Path(path))


def image(node: Kubelet, name: str) -> pathlib.Path:
    return node.box.root / f"{name}.img"


def write(path: pathlib.Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def type_of(path: pathlib.Path) -> str:
    done = subprocess.run(
        ["blkid", "-p", "-s", "TYPE", "-o", "value", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("fs_type", "made", "mebibytes"),
    [
        pytest.param("", "ext4", 32, id="default"),
        pytest.param("ext3", "ext3", 32, id="ext3"),
        pytest.param("xfs", "xfs", 320, id="xfs"),
    ],
)
async def test_a_blank_device_is_formatted_once_and_keeps_its_data(
    node: Kubelet, fs_type: str, made: str, mebibytes: int
) -> None:
    name = f"blank-{made}"
    volume = local(name, node.box.device(name, mebibytes=mebibytes), fs_type=fs_type)
    target = await node.up(volume)
    assert type_of(image(node, name)) == made
    (seen(node, target) / "file").write_text("precious")
    await node.down(volume)
    assert not node.box.mounts(pathlib.Path(node.box.staging(name)).parent)
    target = await node.up(volume)
    assert (seen(node, target) / "file").read_text() == "precious"
    await node.down(volume)


async def test_every_call_repeated_changes_nothing(node: Kubelet) -> None:
    volume = local("again", node.box.device("again"))
    for _ in range(3):
        staging = await node.stage(volume)
    for _ in range(3):
        target = await node.publish(volume)
    points = [mount.point for mount in node.box.mounts()]
    assert (points.count(staging), points.count(target)) == (1, 1)
    for _ in range(3):
        await node.unpublish(volume)
    for _ in range(3):
        await node.unstage(volume)


async def test_a_filesystem_that_is_there_is_used_whatever_the_class_says(node: Kubelet) -> None:
    volume = local("xfs-there", node.box.device("xfs-there", mebibytes=320, formatted="xfs"))
    target = await node.up(volume)
    shown = next(mount for mount in node.box.mounts() if mount.point == target)
    assert shown.fs_type == "xfs"
    await node.down(volume)


async def test_another_filesystem_than_the_real_volume_wants_is_left_alone(node: Kubelet) -> None:
    path = node.box.device("wrong-fs", mebibytes=320, formatted="xfs")
    volume = local("wrong-fs", path, fs_type="ext4")
    before = image(node, "wrong-fs").read_bytes()
    with refused("FAILED_PRECONDITION", "holds xfs"):
        await node.stage(volume)
    assert image(node, "wrong-fs").read_bytes() == before
    assert "wrong-fs.json" not in node.box.journal


async def test_a_partition_table_is_left_alone(node: Kubelet) -> None:
    path = node.box.device("parts")
    one_partition = struct.pack("<B3sB3sII", 0, b"\0" * 3, 0x83, b"\0" * 3, 2048, 8192)
    write(image(node, "parts"), 446, one_partition.ljust(64, b"\0") + b"\x55\xaa")
    before = image(node, "parts").read_bytes()
    with refused("FAILED_PRECONDITION", "partition table"):
        await node.stage(local("parts", path))
    assert image(node, "parts").read_bytes() == before


@pytest.mark.parametrize(
    ("signature", "offset", "magic"),
    [
        pytest.param("swap", 4086, b"SWAPSPACE2", id="swap"),
        pytest.param("luks", 0, b"LUKS\xba\xbe\x00\x01", id="luks"),
        pytest.param("lvm", 512, b"LABELONE\1" + b"\0" * 15 + b"LVM2 001", id="lvm"),
        pytest.param("raid", 4096, b"\xfc\x4e\x2b\xa9\1", id="raid"),
        pytest.param("database", 16384, b"a database's first page", id="no-known-signature"),
    ],
)
async def test_what_is_no_filesystem_is_left_alone(
    node: Kubelet, signature: str, offset: int, magic: bytes
) -> None:
    name = f"sig-{signature}"
    path = node.box.device(name)
    write(image(node, name), offset, magic)
    before = image(node, name).read_bytes()
    with refused("FAILED_PRECONDITION"):
        await node.stage(local(name, path))
    assert image(node, name).read_bytes() == before


async def test_a_blank_device_that_is_in_use_is_left_alone(node: Kubelet) -> None:
    path = node.box.device("in-use")
    device = f"{node.box.host}{path}"
    descriptor = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with refused("FAILED_PRECONDITION", "used by something else"):
            await node.stage(local("in-use", path))
    finally:
        os.close(descriptor)
    assert type_of(image(node, "in-use")) == ""


async def test_a_blank_device_is_not_formatted_for_reading(node: Kubelet) -> None:
    volume = local("blank-ro", node.box.device("blank-ro"), options=("ro",))
    with refused("FAILED_PRECONDITION", "blank"):
        await node.stage(volume)
    assert type_of(image(node, "blank-ro")) == ""


async def test_a_filesystems_own_options_take_effect_when_it_is_staged(node: Kubelet) -> None:
    flags = capability(flags=("noexec",))
    path = node.box.device("fs-options", formatted="ext4")
    volume = local("fs-options", path, options=("data=journal", "noatime"), capability=flags)
    target = await node.up(volume)
    table = node.box.on_host("findmnt", "-n", "-o", "OPTIONS", "--target", target)
    assert {"data=journal", "noatime", "noexec"} <= set(table.strip().split(","))
    await node.down(volume)


async def test_an_option_the_filesystem_refuses_is_told_in_its_words(node: Kubelet) -> None:
    volume = local("bad-option", node.box.device("bad-option"), options=("nonsense",))
    with refused("UNAVAILABLE", "mounting"):
        await node.stage(volume)
    await node.unstage(volume)
    assert "bad-option.json" not in node.box.journal


async def test_read_only_for_one_pod_leaves_the_other_writing(node: Kubelet) -> None:
    volume = local("ro-one", node.box.device("ro-one"))
    writable = await node.up(volume, "pod-w")
    volume.read_only = True
    target = await node.publish(volume, "pod-r")
    (seen(node, writable) / "file").write_text("x")
    with pytest.raises(OSError, match="Read-only"):
        (seen(node, target) / "file").write_text("y")
    await node.unpublish(volume, "pod-w")
    await node.down(volume, "pod-r")


async def test_publishing_before_staging_is_refused(node: Kubelet) -> None:
    volume = local("unstaged", node.box.device("unstaged"))
    with refused("FAILED_PRECONDITION", "stage it first"):
        await node.publish(volume)


async def test_another_mount_at_the_staging_path_is_left_alone(node: Kubelet) -> None:
    volume = local("stage-taken", node.box.device("stage-taken"))
    staging = node.box.staging(volume.id)
    node.box.on_host("mount", "-t", "tmpfs", "none", staging)
    with refused("ALREADY_EXISTS", "another filesystem"):
        await node.stage(volume)
    node.box.on_host("umount", staging)


async def test_a_hostpath_volume_is_no_filesystem_on_a_device(node: Kubelet) -> None:
    with refused("FAILED_PRECONDITION", "hostPath"):
        await node.stage(host_path("hp-dev", node.box.device("hp-dev")))


async def test_a_raw_device_is_a_device_in_the_pod(node: Kubelet) -> None:
    volume = local("raw", node.box.device("raw"), block=True)
    for _ in range(2):
        await node.stage(volume)
        target = await node.publish(volume)
    assert stat.S_ISBLK(seen(node, target).stat().st_mode)
    with seen(node, target).open("r+b", buffering=0) as file:
        file.write(b"raw bytes" + b"\0" * 503)
    usage = await node.stats(volume, target)
    assert {unit: one.total for unit, one in usage.items()} == {"BYTES": 32 << 20}
    for _ in range(2):
        await node.down(volume)
    assert not seen(node, target).exists()
    assert image(node, "raw").read_bytes().startswith(b"raw bytes")


async def test_a_raw_device_read_only_and_for_two_pods(node: Kubelet) -> None:
    volume = local("raw-two", node.box.device("raw-two"), block=True)
    await node.up(volume, "pod-a")
    await node.publish(volume, "pod-b")
    await node.unpublish(volume, "pod-a")
    await node.down(volume, "pod-b")


async def test_a_directory_is_no_raw_device(node: Kubelet) -> None:
    volume = local("no-raw", node.box.folder("no-raw"), block=True)
    with refused("FAILED_PRECONDITION", "directory"):
        await node.stage(volume)


async def test_stats_of_a_mounted_filesystem(node: Kubelet) -> None:
    volume = local("fs-stats", node.box.device("fs-stats"))
    target = await node.up(volume)
    usage = await node.stats(volume, target)
    assert 16 << 20 < usage["BYTES"].total < 32 << 20
    assert usage["INODES"].total > 100
    await node.down(volume)


async def test_a_device_found_through_links_is_the_device(node: Kubelet) -> None:
    """As /dev/disk/by-id: absolute links of the host, not of the container."""
    path = node.box.device("linked")
    (node.box.host / "dev" / "by-id").mkdir()
    (node.box.host / "dev" / "by-id" / "disk").symlink_to(path)
    volume = local("linked", "/dev/by-id/disk")
    target = await node.up(volume)
    (seen(node, target) / "file").write_text("x")
    await node.down(volume)
    assert type_of(image(node, "linked")) == "ext4"
