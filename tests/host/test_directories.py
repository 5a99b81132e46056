"""Directories on the node, as hostPath and local volumes: what a pod sees, and never does."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import grpc.aio
import pytest

from csi_liqo.model import source
from tests.host import node_box
from tests.host.kubelet_calls import Kubelet, Volume, capability, host_path, local, refused

DATA = {"file": "precious"}


def seen(node: Kubelet, target: str) -> pathlib.Path:
    return node.box.path(pathlib.Path(target))


@pytest.mark.parametrize("make", [host_path, local], ids=["hostPath", "local"])
async def test_a_pod_sees_the_directory_and_writes_into_it(
    node: Kubelet, make: Callable[[str, str], Volume], request: pytest.FixtureRequest
) -> None:
    name = f"dir-{request.node.callspec.id.lower()}"
    volume = make(name, node.box.folder(name, DATA))
    target = await node.up(volume)
    assert (seen(node, target) / "file").read_text() == "precious"
    (seen(node, target) / "more").write_text("from the pod")
    assert (node.box.host / name / "more").read_text() == "from the pod"
    await node.down(volume)
    assert not seen(node, target).exists()
    assert sorted(os.listdir(node.box.host / name)) == ["file", "more"]


async def test_every_call_repeated_changes_nothing(node: Kubelet) -> None:
    volume = host_path("repeat", node.box.folder("repeat", DATA))
    for _ in range(3):
        await node.stage(volume)
    for _ in range(3):
        target = await node.publish(volume)
    assert [mount.point for mount in node.box.mounts()].count(target) == 1
    for _ in range(3):
        await node.unpublish(volume)
    for _ in range(3):
        await node.unstage(volume)
    assert "repeat.json" not in node.box.journal


async def test_two_pods_share_a_volume_and_leave_one_by_one(node: Kubelet) -> None:
    volume = host_path("two-pods", node.box.folder("two-pods", DATA))
    first = await node.up(volume, "pod-a")
    second = await node.up(volume, "pod-b")
    await node.unpublish(volume, "pod-a")
    assert not seen(node, first).exists()
    assert (seen(node, second) / "file").read_text() == "precious"
    await node.down(volume, "pod-b")


async def test_a_volume_for_one_pod_is_refused_to_a_second(node: Kubelet) -> None:
    single = capability(mode="SINGLE_NODE_SINGLE_WRITER")
    volume = host_path("one-pod", node.box.folder("one-pod"), capability=single)
    target = await node.up(volume, "pod-a")
    with refused("FAILED_PRECONDITION", target):
        await node.publish(volume, "pod-b")
    await node.publish(volume, "pod-a")
    await node.unpublish(volume, "pod-a")
    await node.publish(volume, "pod-b")
    await node.down(volume, "pod-b")


async def test_never_staged_and_never_published_is_gone_already(node: Kubelet) -> None:
    unknown = host_path("unknown", "/nowhere")
    await node.unpublish(unknown)
    await node.unstage(unknown)


@pytest.mark.parametrize("path", ["/gone", "/gone/below", "/gone-file/below"])
async def test_a_missing_source_is_named_and_never_made(node: Kubelet, path: str) -> None:
    (node.box.host / "gone-file").write_text("")
    volume = host_path("missing", path)
    with refused("NOT_FOUND", f"{path} of volume missing does not exist on node rome-1"):
        await node.stage(volume)
    with refused("NOT_FOUND", path):
        await node.publish(volume)
    assert not (node.box.host / "gone").exists()
    assert "missing.json" not in node.box.journal


async def test_a_remote_volume_is_refused_with_the_place_to_go_to(node: Kubelet) -> None:
    context = source.to_context(source.Source(kind=source.Kind.REMOTE))
    with refused("FAILED_PRECONDITION", "virtual node"):
        await node.stage(Volume("remote", context))
    assert "remote.json" not in node.box.journal


async def test_a_context_of_another_version_is_refused(node: Kubelet) -> None:
    with refused("INVALID_ARGUMENT", "version '2'"):
        await node.stage(Volume("later", {"version": "2", "source": "{}"}))


@pytest.mark.parametrize(
    ("read_only", "mode", "flags"),
    [
        pytest.param(True, "SINGLE_NODE_WRITER", (), id="asked-for"),
        pytest.param(False, "SINGLE_NODE_READER_ONLY", (), id="by-access-mode"),
        pytest.param(False, "SINGLE_NODE_WRITER", ("noatime", "ro"), id="by-mount-option"),
    ],
)
async def test_read_only_means_no_writes_below_either(
    node: Kubelet, read_only: bool, mode: str, flags: tuple[str, ...]
) -> None:
    name = f"ro-{mode.lower().replace('_', '')}-{read_only}-{len(flags)}".lower()
    path = node.box.folder(name, DATA)
    node.box.folder(f"{name}/sub")
    node.box.on_host("mount", "-t", "tmpfs", "none", f"{node.box.host}/{name}/sub")
    volume = host_path(
        name, path, read_only=read_only, capability=capability(mode=mode, flags=flags)
    )
    target = await node.up(volume)
    assert (seen(node, target) / "file").read_text() == "precious"
    for place in (seen(node, target), seen(node, target) / "sub"):
        with pytest.raises(OSError, match="Read-only"):
            (place / "new").write_text("no")
    await node.publish(volume)
    node.box.path(node.box.host / name / "sub" / "new").write_text("the source stays writable")
    await node.down(volume)


async def test_mount_options_hold_for_the_pod(node: Kubelet) -> None:
    flags = capability(flags=("nosuid,nodev", "noexec", "noatime"))
    volume = host_path("options", node.box.folder("options"), capability=flags)
    target = await node.up(volume)
    shown = next(mount for mount in node.box.mounts() if mount.point == target)
    assert {"nosuid", "nodev", "noexec", "noatime"} <= shown.options
    await node.down(volume)


async def test_an_option_a_bind_mount_cannot_have_is_refused(node: Kubelet) -> None:
    flags = capability(flags=("discard",))
    volume = host_path("discard", node.box.folder("discard"), capability=flags)
    await node.stage(volume)
    with refused("FAILED_PRECONDITION", "'discard'"):
        await node.publish(volume)
    await node.down(volume)


async def test_publishing_otherwise_at_the_same_target_is_refused(node: Kubelet) -> None:
    volume = host_path("otherwise", node.box.folder("otherwise"))
    await node.up(volume)
    volume.read_only = True
    with refused("ALREADY_EXISTS", "writable"):
        await node.publish(volume)
    other = host_path("otherwise", node.box.folder("otherwise-2"))
    with refused("ALREADY_EXISTS", "something else"):
        await node.publish(other)
    await node.down(volume)


async def test_submounts_come_along_and_the_originals_stay(node: Kubelet) -> None:
    """Unmounting a copy on a shared mount must not unmount the original."""
    path = node.box.folder("deep", DATA)
    node.box.folder("deep/sub")
    original = f"{node.box.host}/deep/sub"
    node.box.on_host("mount", "-t", "tmpfs", "none", original)
    node.box.path(pathlib.Path(original) / "inner").write_text("below")
    volume = host_path("deep", path)
    target = await node.up(volume)
    assert (seen(node, target) / "sub" / "inner").read_text() == "below"
    await node.down(volume)
    assert not seen(node, target).exists()
    assert node.box.path(pathlib.Path(original) / "inner").read_text() == "below"


async def test_originals_stay_where_the_hosts_root_is_shared_too(box: node_box.Box) -> None:
    """Without a container around it: mounts of one peer group, where unmounting spreads."""
    path = box.folder("deep")
    box.folder("deep/sub")
    box.on_host("mount", "-t", "tmpfs", "none", f"{box.host}/deep/sub")
    with box.serving("--host-root", str(box.host)):
        async with grpc.aio.insecure_channel(f"unix:{box.driver}/csi.sock") as channel:
            node = Kubelet(box, channel)
            volume = host_path("deep", path)
            await node.up(volume)
            assert len(box.mounts()) == 2
            await node.down(volume)
    assert [mount.point for mount in box.mounts(box.host)] == [f"{box.host}/deep/sub"]
    assert not box.mounts()


async def test_links_lead_inside_the_hosts_root_and_never_out(node: Kubelet) -> None:
    node.box.folder("real", DATA)
    (node.box.host / "absolute").symlink_to("/real")
    (node.box.host / "upwards").symlink_to("../../../../real")
    for name in ("absolute", "upwards"):
        volume = host_path(f"link-{name}", f"/{name}")
        target = await node.up(volume)
        assert (seen(node, target) / "file").read_text() == "precious"
        await node.down(volume)
    (node.box.host / "outside").symlink_to(str(node.box.root))
    with refused("NOT_FOUND"):
        await node.stage(host_path("link-out", "/outside"))


@pytest.mark.parametrize(
    "path", ["/etc/target", "{kubelet}/../x", "{kubelet}//x", "x/y", "{kubelet}"]
)
async def test_a_path_that_is_not_below_kubelets_folder_is_refused(
    node: Kubelet, path: str
) -> None:
    named = path.format(kubelet=node.box.kubelet)
    with refused("INVALID_ARGUMENT", "path"):
        await node.publish(host_path("outside", node.box.folder(f"o{abs(hash(path))}")), at=named)
    with refused("INVALID_ARGUMENT", "path"):
        await node.unpublish(host_path("outside", "/"), at=named)


async def test_a_link_on_the_way_to_a_target_is_not_followed(node: Kubelet) -> None:
    volume = host_path("by-link", node.box.folder("by-link"))
    elsewhere = node.box.folder("elsewhere")
    (node.box.kubelet / "pods" / "linked").parent.mkdir(parents=True, exist_ok=True)
    (node.box.kubelet / "pods" / "linked").symlink_to(f"{node.box.host}{elsewhere}")
    await node.stage(volume)
    with refused("UNAVAILABLE", "symbolic links"):
        await node.publish(volume, "linked")
    await node.unstage(volume)


async def test_a_target_with_files_is_neither_hidden_nor_removed(node: Kubelet) -> None:
    volume = host_path("occupied", node.box.folder("occupied"))
    target = seen(node, node.box.target("occupied"))
    target.mkdir()
    (target / "whose").write_text("somebody's")
    await node.stage(volume)
    with refused("FAILED_PRECONDITION", "hide"):
        await node.publish(volume)
    with refused("FAILED_PRECONDITION", "not the volume's"):
        await node.unpublish(volume)
    assert (target / "whose").read_text() == "somebody's"
    (target / "whose").unlink()
    await node.down(volume)


async def test_unpublishing_a_folder_unmounts_nothing_below_it(node: Kubelet) -> None:
    """Only what is mounted at the target itself is the volume's."""
    volume = host_path("neighbour", node.box.folder("neighbour", DATA))
    target = await node.up(volume, "pod-n")
    pods = str(node.box.kubelet / "pods")
    with refused("FAILED_PRECONDITION"):
        await node.unpublish(volume, at=pods)
    assert (seen(node, target) / "file").read_text() == "precious"
    await node.down(volume, "pod-n")


async def test_a_missing_parent_of_the_target_is_the_callers_fault(node: Kubelet) -> None:
    volume = host_path("parentless", node.box.folder("parentless"))
    await node.stage(volume)
    folder = node.box.kubelet / "pods/nobody/mount"
    with refused("FAILED_PRECONDITION", "does not exist"):
        await node.publish(volume, at=str(folder))
    await node.unpublish(volume, at=str(folder))
    await node.unstage(volume)


async def test_a_file_cannot_serve_a_volume(node: Kubelet) -> None:
    (node.box.host / "plain").write_text("text")
    with refused("FAILED_PRECONDITION", "neither a directory nor a block device"):
        await node.stage(host_path("plain", "/plain"))


async def test_the_volume_mode_is_the_real_volumes(node: Kubelet) -> None:
    path = node.box.folder("mode")
    volume = host_path("mode", path, capability=capability(block=True))
    with refused("INVALID_ARGUMENT", "volume mode Filesystem"):
        await node.stage(volume)


async def test_stats_are_those_of_the_filesystem_below(node: Kubelet) -> None:
    path = node.box.folder("stats")
    node.box.on_host("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=50", "none",
                     f"{node.box.host}{path}")  # fmt: skip
    volume = host_path("stats", path)
    target = await node.up(volume)
    (seen(node, target) / "fill").write_bytes(b"x" * 8192)
    usage = await node.stats(volume, target)
    assert usage["BYTES"].total == 1 << 20
    assert usage["BYTES"].used == 8192
    assert usage["BYTES"].available == (1 << 20) - 8192
    assert (usage["INODES"].total, usage["INODES"].used) == (50, 2)
    await node.down(volume)


async def test_stats_of_what_is_not_there_are_not_found(node: Kubelet) -> None:
    volume = host_path("no-stats", node.box.folder("no-stats"))
    other = host_path("other-stats", node.box.folder("other-stats"))
    target = node.box.target(volume.id)
    with refused("NOT_FOUND", "not staged"):
        await node.stats(volume, target)
    others = await node.up(other)
    await node.stage(volume)
    for path in (target, "some/path", "/etc", str(node.box.kubelet), others):
        with refused("NOT_FOUND", "not at"):
            await node.stats(volume, path)
    await node.unstage(volume)
    await node.down(other)
