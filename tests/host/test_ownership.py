"""fsGroup on real trees: what is given to the group, and what never is."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from csi_liqo.host import ownership
from csi_liqo.model import source
from csi_liqo.service.node import ports
from tests.host import node_box
from tests.host.kubelet_calls import Kubelet, Volume, host_path, refused
from tests.host.real_driver import LoopDriver

GROUP = 2345


def group_and_mode(path: pathlib.Path) -> tuple[int, str]:
    facts = path.lstat()
    return facts.st_gid, oct(stat.S_IMODE(facts.st_mode))


def give(root: pathlib.Path) -> ports.Progress:
    progress = ports.Progress()
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        ownership.give(descriptor, GROUP, progress)
    finally:
        os.close(descriptor)
    return progress


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    for folder in (root, root / "a", root / "a" / "b"):
        folder.chmod(0o700)
    (root / "a" / "file").write_text("x")
    (root / "a" / "file").chmod(0o600)
    return root


def test_folders_and_files_become_the_groups(tree: pathlib.Path) -> None:
    assert give(tree).entries == 3
    assert group_and_mode(tree) == (GROUP, "0o2770")
    assert group_and_mode(tree / "a" / "b") == (GROUP, "0o2770")
    assert group_and_mode(tree / "a" / "file") == (GROUP, "0o660")
    assert (tree / "a" / "file").stat().st_uid == 0


def test_a_root_that_is_the_groups_means_all_is_done(tree: pathlib.Path) -> None:
    give(tree)
    os.chown(tree / "a" / "file", 0, 0)
    assert give(tree).entries == 0
    assert group_and_mode(tree / "a" / "file")[0] == 0
    tree.chmod(0o770)
    assert give(tree).entries == 3
    assert group_and_mode(tree / "a" / "file")[0] == GROUP


def test_no_link_is_followed_out_of_the_volume(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "secret").write_text("x")
    (outside / "secret").chmod(0o600)
    (tree / "folder-link").symlink_to(outside)
    (tree / "file-link").symlink_to(outside / "secret")
    (tree / "up").symlink_to("..")
    (tree / "loop").symlink_to("loop")
    give(tree)
    assert group_and_mode(outside / "secret") == (0, "0o600")
    assert group_and_mode(outside / "below")[0] == 0
    assert group_and_mode(outside)[0] == 0
    assert group_and_mode(tmp_path)[0] == 0
    assert group_and_mode(tree / "file-link")[0] == GROUP  # the link itself, as kubelet


def test_special_files_are_changed_without_being_opened(tree: pathlib.Path) -> None:
    os.mkfifo(tree / "fifo", 0o600)
    os.mknod(tree / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    give(tree)
    assert group_and_mode(tree / "fifo") == (GROUP, "0o660")
    assert group_and_mode(tree / "null") == (GROUP, "0o660")


def test_a_program_keeps_the_bits_that_change_identity(tree: pathlib.Path) -> None:
    program = tree / "program"
    program.write_text("x")
    program.chmod(0o4755)
    give(tree)
    assert group_and_mode(program) == (GROUP, "0o4775")


def test_a_deep_tree_is_refused_and_not_a_crash(tree: pathlib.Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(ownership.DEEPEST + 5):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    with pytest.raises(Exception, match="nested deeper than 512"):
        give(tree)


@contextlib.asynccontextmanager
async def calling(box: node_box.Box) -> AsyncIterator[Kubelet]:
    async with grpc.aio.insecure_channel(f"unix:{box.driver}/csi.sock") as channel:
        yield Kubelet(box, channel)


def for_group(volume: Volume) -> Volume:
    volume.capability.mount.volume_mount_group = str(GROUP)
    return volume


async def test_a_directorys_files_become_the_groups_and_another_mount_in_it_does_not(
    node: Kubelet,
) -> None:
    path = node.box.folder("grouped", {"file": "x"})
    inner = node.box.host / "grouped" / "inner"
    inner.mkdir()
    node.box.on_host("mount", "-t", "tmpfs", "tmpfs", str(inner))
    volume = for_group(host_path("grouped", path))
    target = node.box.path(pathlib.Path(await node.up(volume)))
    try:
        assert group_and_mode(target / "file")[0] == GROUP
        assert group_and_mode(target)[0] == GROUP
        assert group_and_mode(target / "inner")[0] == 0
    finally:
        await node.down(volume)
        node.box.on_host("umount", str(inner))


async def test_a_read_only_pod_changes_nothing(node: Kubelet) -> None:
    path = node.box.folder("read", {"file": "x"})
    volume = for_group(host_path("read", path, read_only=True))
    await node.up(volume)
    assert group_and_mode(node.box.host / "read" / "file")[0] == 0
    await node.down(volume)


async def test_a_group_that_is_no_number_is_refused(node: Kubelet) -> None:
    volume = host_path("wrong", node.box.folder("wrong"))
    await node.stage(volume)
    volume.capability.mount.volume_mount_group = "users"
    with refused("INVALID_ARGUMENT", "no group's number"):
        await node.publish(volume)
    await node.unstage(volume)


@pytest.mark.parametrize(
    ("policy", "arguments", "group"),
    [
        (source.FsGroupPolicy.NONE, (), 0),
        (source.FsGroupPolicy.READ_WRITE_ONCE_WITH_FS_TYPE, (), GROUP),
        (source.FsGroupPolicy.NONE, ("--volume-mount-group",), GROUP),
    ],
)
async def test_a_real_volume_has_its_own_drivers_policy(
    box: node_box.Box,
    real: LoopDriver,
    policy: source.FsGroupPolicy,
    arguments: tuple[str, ...],
    group: int,
) -> None:
    with real.serving(*arguments), box.serving():
        async with calling(box) as node:
            volume = for_group(await real.volume("v", fs_group_policy=policy))
            target = await node.up(volume)
            assert group_and_mode(box.path(pathlib.Path(target)))[0] == group
            await node.down(volume)
    for method in ("NodeStageVolume", "NodePublishVolume"):
        mount = real.calls(method)[0]["request"]["volume_capability"]["mount"]
        assert mount.get("volume_mount_group", "") == (str(GROUP) if arguments else "")
