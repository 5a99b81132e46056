"""The node's decisions: which way a volume is mounted, with which options, which filesystem."""

from __future__ import annotations

import pytest

from csi_liqo.host import machine
from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import mounting, ports

FILESYSTEM, BLOCK = source.VolumeMode.FILESYSTEM, source.VolumeMode.BLOCK
HOST_PATH, LOCAL = source.Kind.HOST_PATH, source.Kind.LOCAL
DIRECTORY, DEVICE, OTHER = ports.PlaceKind


def capability(
    mode: volumes.AccessMode = volumes.AccessMode.SINGLE_NODE_WRITER,
    *,
    fs_type: str = "",
    flags: tuple[str, ...] = (),
) -> volumes.VolumeCapability:
    return volumes.VolumeCapability(
        access_mode=mode, volume_mode=FILESYSTEM, fs_type=fs_type, mount_flags=flags
    )


def place(kind: ports.PlaceKind) -> ports.Place:
    return ports.Place(
        descriptor=-1,
        path="/host/x",
        name="/x",
        kind=kind,
        identity=ports.Identity(device=1, inode=2),
        device_number=0,
        read_only=False,
    )


@pytest.mark.parametrize(
    ("kind", "mode", "found", "way"),
    [
        (HOST_PATH, FILESYSTEM, DIRECTORY, mounting.Way.DIRECTORY),
        (LOCAL, FILESYSTEM, DIRECTORY, mounting.Way.DIRECTORY),
        (LOCAL, FILESYSTEM, DEVICE, mounting.Way.FILESYSTEM),
        (LOCAL, BLOCK, DEVICE, mounting.Way.DEVICE),
        (HOST_PATH, BLOCK, DEVICE, mounting.Way.DEVICE),
        (HOST_PATH, FILESYSTEM, DEVICE, None),
        (LOCAL, BLOCK, DIRECTORY, None),
        (LOCAL, FILESYSTEM, OTHER, None),
        (LOCAL, BLOCK, OTHER, None),
    ],
)
def test_the_way_follows_from_what_is_there(
    kind: source.Kind,
    mode: source.VolumeMode,
    found: ports.PlaceKind,
    way: mounting.Way | None,
) -> None:
    described = source.Source(kind=kind, path="/x", volume_mode=mode)
    if way is None:
        with pytest.raises(errors.PreconditionError, match="cannot serve"):
            mounting.choose_way(described, place(found))
    else:
        assert mounting.choose_way(described, place(found)) is way


def test_options_of_the_real_volume_come_first_and_lists_are_split() -> None:
    described = source.Source(kind=LOCAL, path="/x", mount_options=("ro,noatime",))
    found = mounting.options_of(described, capability(flags=("rw", "nosuid,,nodev")))
    assert found == ("ro", "noatime", "rw", "nosuid", "nodev")


@pytest.mark.parametrize(
    ("options", "mode", "asked", "expected"),
    [
        ((), "SINGLE_NODE_WRITER", False, False),
        ((), "SINGLE_NODE_WRITER", True, True),
        (("ro",), "SINGLE_NODE_WRITER", False, True),
        (("ro", "rw"), "SINGLE_NODE_WRITER", False, False),
        (("rw",), "SINGLE_NODE_WRITER", True, True),
        ((), "SINGLE_NODE_READER_ONLY", False, True),
        ((), "MULTI_NODE_READER_ONLY", False, True),
        ((), "MULTI_NODE_MULTI_WRITER", False, False),
    ],
)
def test_read_only_is_whatever_says_so(
    options: tuple[str, ...], mode: str, asked: bool, expected: bool
) -> None:
    used = capability(volumes.AccessMode(mode))
    assert mounting.is_read_only(options, used, read_only=asked) is expected


def test_a_filesystems_own_options_are_no_matter_of_its_bind_mount() -> None:
    options = ("data=journal", "noexec")
    way = mounting.Way.FILESYSTEM
    assert mounting.bind_options(way, options, read_only=True) == ("noexec", "ro")
    with pytest.raises(errors.PreconditionError, match="data=journal"):
        mounting.bind_options(mounting.Way.DIRECTORY, options, read_only=False)


def test_every_option_of_a_mount_has_its_bits() -> None:
    assert set(machine.OPTIONS) == mounting.MOUNT_OPTIONS


@pytest.mark.parametrize(
    ("wanted", "by_class", "existing", "read_only", "chosen"),
    [
        pytest.param("", "", "", False, "ext4", id="the-default"),
        pytest.param("", "xfs", "", False, "xfs", id="the-class-decides-for-a-blank-one"),
        pytest.param("ext3", "xfs", "", False, "ext3", id="the-real-volume-before-the-class"),
        pytest.param("", "ext4", "xfs", False, "xfs", id="what-is-there-before-the-class"),
        pytest.param("xfs", "ext4", "xfs", True, "xfs", id="what-is-there-as-wanted"),
        pytest.param("ext4", "ext4", "xfs", False, None, id="never-over-another"),
        pytest.param("", "", "", True, None, id="never-for-reading"),
        pytest.param("zfs", "", "", False, None, id="an-unknown-one"),
        pytest.param("", "", "crypto_LUKS", False, None, id="no-filesystem"),
    ],
)
def test_the_filesystem_is_chosen_and_never_made_over_another(
    wanted: str, by_class: str, existing: str, read_only: bool, chosen: str | None
) -> None:
    described = source.Source(kind=LOCAL, path="/dev/x", fs_type=wanted)
    used = capability(fs_type=by_class)
    if chosen is None:
        with pytest.raises(errors.PreconditionError, match="/dev/x"):
            mounting.choose_filesystem(described, used, existing, read_only=read_only)
    else:
        found = mounting.choose_filesystem(described, used, existing, read_only=read_only)
        assert found == chosen


@pytest.mark.parametrize(
    "path", ["", "x", "/k", "/k/", "/k/../etc", "/k//x", "/k/x/", "/k/./x", "/kk/x", "/etc"]
)
def test_a_path_outside_or_not_plain_is_refused(path: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="target_path"):
        mounting.check_path(path, "/k", "target_path")


def test_a_plain_path_below_is_taken() -> None:
    assert mounting.check_path("/k/x/y", "/k/", "target_path") == "/k/x/y"


def test_a_remote_source_is_refused_for_this_node() -> None:
    context = source.to_context(source.Source(kind=source.Kind.REMOTE))
    with pytest.raises(errors.PreconditionError, match="node rome-1"):
        mounting.read_source("v", context, capability(), "rome-1")
