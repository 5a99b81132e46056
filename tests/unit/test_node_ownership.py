"""fsGroup: whose volumes' files are given away, and a task that outlives its call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import forwarding, ownership, ports

MODE = volumes.AccessMode
POLICY = source.FsGroupPolicy


def capability(
    mode: volumes.AccessMode = MODE.SINGLE_NODE_MULTI_WRITER,
    *,
    fs_type: str = "ext4",
    group: str = "2000",
) -> volumes.VolumeCapability:
    return volumes.VolumeCapability(
        access_mode=mode,
        volume_mode=source.VolumeMode.FILESYSTEM,
        fs_type=fs_type,
        mount_group=group,
    )


def real(
    policy: source.FsGroupPolicy, *, fs_type: str = "xfs", modes: tuple[str, ...] = ()
) -> source.Source:
    return source.Source(
        kind=source.Kind.CSI,
        fs_type=fs_type,
        csi=source.CsiSource(
            driver="d",
            handle="h",
            persistent_volume="p",
            access_modes=modes,
            fs_group_policy=policy,
        ),
    )


@pytest.mark.parametrize(
    ("policy", "fs_type", "modes", "wanted"),
    [
        (POLICY.NONE, "xfs", ("ReadWriteOnce",), False),
        (POLICY.FILE, "", ("ReadWriteMany",), True),
        (POLICY.READ_WRITE_ONCE_WITH_FS_TYPE, "xfs", ("ReadWriteOnce",), True),
        (POLICY.READ_WRITE_ONCE_WITH_FS_TYPE, "xfs", ("ReadWriteOncePod",), True),
        (POLICY.READ_WRITE_ONCE_WITH_FS_TYPE, "xfs", ("ReadWriteMany", "ReadWriteOnce"), True),
        (POLICY.READ_WRITE_ONCE_WITH_FS_TYPE, "xfs", ("ReadWriteMany",), False),
        (POLICY.READ_WRITE_ONCE_WITH_FS_TYPE, "", ("ReadWriteOnce",), False),
    ],
)
def test_the_real_drivers_policy_decides(
    policy: source.FsGroupPolicy, fs_type: str, modes: tuple[str, ...], wanted: bool
) -> None:
    found = real(policy, fs_type=fs_type, modes=modes)
    given = {"abilities": forwarding.Abilities()}
    assert ownership.is_wanted(found, capability(), read_only=False, **given) is wanted
    assert not ownership.is_wanted(found, capability(), read_only=True, **given)


def test_a_driver_that_applies_the_group_itself_does_it() -> None:
    able = forwarding.Abilities(mount_group=True)
    found = real(POLICY.FILE)
    assert not ownership.is_wanted(found, capability(), read_only=False, abilities=able)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (capability(), True),
        (capability(MODE.SINGLE_NODE_SINGLE_WRITER), True),
        (capability(fs_type=""), False),
        (capability(MODE.MULTI_NODE_MULTI_WRITER), False),
        (capability(MODE.SINGLE_NODE_READER_ONLY), False),
    ],
)
def test_a_directory_has_the_default_policy(asked: volumes.VolumeCapability, wanted: bool) -> None:
    found = source.Source(kind=source.Kind.HOST_PATH, path="/x")
    assert ownership.is_wanted(found, asked, read_only=False) is wanted


def test_a_group_is_a_number_or_absent() -> None:
    assert ownership.wanted_group(capability(group="")) is None
    assert ownership.wanted_group(capability(group="0")) == 0
    for wrong in ("root", "-1", "4294967295", "१", " 1"):
        with pytest.raises(errors.InvalidRequestError, match="is no group's number"):
            ownership.wanted_group(capability(group=wrong))


class Slow:
    """A machine whose trees take as long as the test wants."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.failure: OSError | None = None
        self.begun = 0

    def give(self, path: str, group: int, progress: ports.Progress) -> None:
        self.begun += 1
        while not progress.stop and not self.go_on.wait(0.01):
            progress.entries += 1
        if self.failure:
            raise self.failure


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def changes(slow: Slow) -> Iterator[ownership.Changes]:
    made = ownership.Changes(cast("ports.Host", slow), patience_seconds=0.05)
    yield made
    made.close()


async def test_a_long_change_outlives_its_call_and_tells_how_far_it_is(
    changes: ownership.Changes, slow: Slow
) -> None:
    for _ in range(3):
        with pytest.raises(errors.OperationPendingError, match=r"group 7 goes on, \d+ looked at"):
            await changes.give("v", "/t", 7)
    slow.go_on.set()
    await changes.give("v", "/t", 7)
    assert slow.begun == 1
    await changes.give("v", "/t", 7)
    assert slow.begun == 2


async def test_a_change_of_a_caller_that_gave_up_goes_on(
    changes: ownership.Changes, slow: Slow
) -> None:
    first = asyncio.create_task(changes.give("v", "/t", 7))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    slow.go_on.set()
    await changes.give("v", "/t", 7)
    assert slow.begun == 1


async def test_a_failed_change_says_so_once_and_is_tried_again(
    changes: ownership.Changes, slow: Slow
) -> None:
    slow.go_on.set()
    slow.failure = OSError("broken disk")
    with pytest.raises(OSError, match="broken disk"):
        await changes.give("v", "/t", 7)
    slow.failure = None
    await changes.give("v", "/t", 7)


async def test_a_target_on_its_way_out_has_no_change_left(
    changes: ownership.Changes, slow: Slow
) -> None:
    with pytest.raises(errors.OperationPendingError):
        await changes.give("v", "/t", 7)
    await changes.stop("/t")
    await changes.stop("/never")
    with pytest.raises(errors.OperationPendingError):
        await changes.give("v", "/t", 7)
    assert slow.begun == 2
