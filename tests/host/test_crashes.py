"""Killed before and after every step of every verb, and then called again: it converges.

One row a kind of volume and a verb. After each death the same call is repeated
by a fresh process, the rest of the volume's life follows, and the volume's data
and the node are as if nothing had happened. So are they when, instead of the
same call, the undoing one comes: kubelet does that when the pod is gone meanwhile.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest

from csi_liqo.model import source
from tests.host import dying_node, node_box, real_driver
from tests.host.dying_node import Order

LIFE = ("stage", "publish", "unpublish", "unstage")
UNDONE_BY = {"stage": ("unstage",), "publish": ("unpublish", "unstage")}


class Life:
    """One volume's calls, each in a process of its own."""

    def __init__(self, box: node_box.Box, kind: str, passed: source.Source | None = None) -> None:
        self.box = box
        self.number = 0
        self.kind = kind
        self.passed = passed
        self.program = box.start(sys.executable, "-m", "tests.host.dying_node", talks=True)
        if passed is not None:
            self.path = ""
        elif kind == "directory":
            self.path = box.folder("data", {"file": "precious"})
        else:
            self.path = box.device("data", mebibytes=4)

    def order(self, verb: str) -> Order:
        volume_id = f"v-{self.number}"
        block = self.kind == "raw"
        described = self.passed or source.Source(
            kind=source.Kind.LOCAL,
            path=self.path,
            volume_mode=source.VolumeMode.BLOCK if block else source.VolumeMode.FILESYSTEM,
        )
        return Order(
            verb=verb,
            volume_id=volume_id,
            kubelet=str(self.box.kubelet),
            host=str(self.box.seen),
            staging=self.box.staging(volume_id),
            target=self.box.target(volume_id),
            context=source.to_context(described),
            block=block,
        )

    def call(self, verb: str, *, die_at: int = 0, before: bool = False) -> int | None:
        """Run one verb; return its number of steps, None when it died."""
        order = msgspec.structs.replace(self.order(verb), die_at=die_at, before=before)
        given, told = self.program.stdin, self.program.stdout
        assert given is not None
        assert told is not None
        given.write(msgspec.json.encode(order) + b"\n")
        given.flush()
        steps = int(told.readline())
        assert steps != dying_node.FAILED, f"{verb} failed"
        return None if steps < 0 else steps

    def check_published(self) -> None:
        target = self.box.path(pathlib.Path(self.order("publish").target))
        if self.kind == "directory":
            assert (target / "file").read_text() == "precious"
        else:
            assert target.is_block_device() or target.is_mount()

    def check_gone(self) -> None:
        order = self.order("publish")
        assert not self.box.mounts()
        assert self.box.journal == []
        assert not self.box.path(pathlib.Path(order.target)).exists()
        if self.kind == "directory":
            assert (self.box.host / "data" / "file").read_text() == "precious"


@pytest.fixture(params=["directory", "filesystem", "raw", "passed", "passed raw"])
async def life(
    box: node_box.Box, real: real_driver.LoopDriver, request: pytest.FixtureRequest
) -> AsyncIterator[Life]:
    passed, _, kind = request.param.partition(" ")
    if passed != "passed":
        made = Life(box, request.param)
    else:
        real.start()
        volume = await real.volume("v", block=kind == "raw")
        made = Life(box, kind or "filesystem", source.from_context(volume.context))
    with made.program:  # its input closes, it ends
        yield made
    assert not real.loops()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", LIFE)
def test_dying_at_any_step_and_being_called_again_converges(life: Life, verb: str) -> None:
    died = 0
    for die_at in range(1, 50):
        for before in (True, False):
            life.number += 1
            position = LIFE.index(verb)
            for earlier in LIFE[:position]:
                life.call(earlier)
            steps = life.call(verb, die_at=die_at, before=before)
            if steps is None:
                died += 1
                life.call(verb)
            if verb == "publish":
                life.check_published()
            for later in LIFE[position + 1 :]:
                life.call(later)
            life.check_gone()
            if steps is not None:
                assert die_at == steps + 1
                assert died == 2 * steps
                return
    pytest.fail("never ran to its end")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", UNDONE_BY)
def test_dying_at_any_step_and_being_undone_leaves_nothing(life: Life, verb: str) -> None:
    for die_at in range(1, 50):
        life.number += 1
        for earlier in LIFE[: LIFE.index(verb)]:
            life.call(earlier)
        survived = life.call(verb, die_at=die_at, before=False) is not None
        for undoing in UNDONE_BY[verb]:
            life.call(undoing)
        life.check_gone()
        if survived:
            return
    pytest.fail("never ran to its end")


def test_a_reboot_leaves_the_journal_and_the_volume_comes_back(life: Life) -> None:
    for verb in ("stage", "publish"):
        life.call(verb)
    life.box.unmount_all()
    assert life.box.journal == ["v-0.json"]
    for verb in ("stage", "publish"):
        life.call(verb)
    life.check_published()
    for verb in ("unpublish", "unstage"):
        life.call(verb)
    life.check_gone()


def test_a_reboot_followed_by_the_undoing_leaves_nothing(life: Life) -> None:
    for verb in ("stage", "publish"):
        life.call(verb)
    life.box.unmount_all()
    for verb in ("unpublish", "unstage"):
        life.call(verb)
    life.check_gone()


def test_the_steps_are_really_counted(life: Life) -> None:
    """The harness would prove nothing if it never died."""
    assert life.call("stage", die_at=1) is None
    steps = life.call("stage")
    assert steps is not None
    assert steps >= 3
    life.call("unstage")
