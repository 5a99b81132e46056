"""Connections to a real driver that outlive a call: when one is used again, and when not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time

from csi_liqo.rpc.pb import csi_pb2
from tests.host import node_box
from tests.host.kubelet_calls import Kubelet, Volume, calling, eventually, refused
from tests.host.real_driver import LoopDriver

OLDER = "--single-node-multi-writer=false"
"""A version that can do less; told apart by the access mode it is sent."""

MANY = 1000
"""Times of a fault that changes nothing, so that the driver counts the calls down."""


def count_questions(real: LoopDriver, **more: object) -> None:
    """From now on, have ``asked`` count; ``more`` are faults of other methods."""
    faults = {"NodeGetCapabilities": {"times": MANY}, **more}
    (real.state / "faults.json").write_text(json.dumps(faults))


def asked(real: LoopDriver) -> int:
    """Return how often the driver was asked what it can: once a connection."""
    left: int = json.loads((real.state / "faults.json").read_text())["NodeGetCapabilities"]["times"]
    return MANY - left


def modes(real: LoopDriver, method: str) -> list[str]:
    """Return in which words a driver was told the access mode, call by call."""
    sent = [call["request"]["volume_capability"] for call in real.calls(method)]
    return [one["access_mode"]["mode"].removeprefix("SINGLE_NODE_") for one in sent]


def sockets(program: subprocess.Popen[bytes]) -> int:
    """Return how many sockets a program has open."""
    folder = f"/proc/{program.pid}/fd"
    found = 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
    return found


async def until_sockets_are(program: subprocess.Popen[bytes], count: int) -> None:
    end = time.monotonic() + 10
    while sockets(program) != count:
        assert time.monotonic() < end, f"{sockets(program)} sockets are open, not {count}"
        await asyncio.sleep(0.01)


async def live(node: Kubelet, volume: Volume) -> None:
    await node.up(volume)
    await node.down(volume)


async def test_a_driver_that_stays_is_connected_to_and_asked_once(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving() as program:
        volumes = [await real.volume(f"v-{number}") for number in range(6)]
        count_questions(real)
        async with calling(box) as node:
            await live(node, volumes[0])
            before = sockets(program)
            for volume in volumes[1:]:
                await live(node, volume)
            assert asked(real) == 1
            await asyncio.gather(*(live(node, volume) for volume in volumes))
            assert asked(real) == 1
            assert sockets(program) == before


async def test_calls_at_once_leave_one_connection(box: node_box.Box, real: LoopDriver) -> None:
    with real.serving(), box.serving() as program:
        volumes = [await real.volume(f"v-{number}") for number in range(6)]
        count_questions(real)
        async with calling(box) as node:
            await node.most_volumes()  # its own connection to kubelet is there
            before = sockets(program)
            await asyncio.gather(*(live(node, volume) for volume in volumes))
            await until_sockets_are(program, before + 1)
            count = asked(real)
            await live(node, volumes[0])
            assert asked(real) == count


async def test_a_restarted_driver_is_asked_anew_between_two_calls(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            count_questions(real)
            for kill in (False, True):
                await node.stage(volume)
                real.stop(kill=kill)
                real.start()
                await node.publish(volume)
                await node.down(volume)
            assert asked(real) == 3
    assert not box.mounts()


async def test_an_upgraded_driver_is_called_as_it_wants_it_now(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(OLDER), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            await live(node, volume)
            real.stop()
            real.start()
            await live(node, volume)
    for method in ("NodeStageVolume", "NodePublishVolume"):
        assert modes(real, method) == ["WRITER", "MULTI_WRITER"]
    assert not box.mounts()


async def test_a_driver_that_takes_the_place_of_one_still_at_work_gets_the_next_call(
    box: node_box.Box, real: LoopDriver
) -> None:
    """The old process serves a socket that no path leads to, and ends what it has begun."""
    with real.serving(OLDER), box.serving() as program:
        async with calling(box) as node:
            slow, later = await real.volume("slow"), await real.volume("later")
            await node.up(later)
            before = sockets(program)
            await node.down(later)
            real.fault("NodeStageVolume", delay_seconds=2, times=1)
            under_way = asyncio.create_task(node.stage(slow))
            await asyncio.to_thread(real.wait_for_fault, "NodeStageVolume")
            old = real.process
            assert old is not None
            try:
                real.start()
                await node.up(later)
                assert modes(real, "NodePublishVolume") == ["WRITER", "MULTI_WRITER"]
                assert not under_way.done()
                await under_way
                assert old.poll() is None
                await until_sockets_are(program, before)  # the old one's is closed by now
                await node.unstage(slow)
                await node.down(later)
            finally:
                old.kill()  # told to end, it would remove its successor's socket
                old.wait(20)
    assert not box.mounts()


async def test_a_driver_that_is_gone_keeps_nothing_open_and_is_found_when_it_is_back(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving():
        volume = await real.volume("v")
    with box.serving() as program:
        async with calling(box) as node:
            await node.most_volumes()
            before = sockets(program)
            for _ in range(3):
                with real.serving():
                    await live(node, volume)
                    assert sockets(program) == before + 1
                await until_sockets_are(program, before)  # without a call
                with refused("UNAVAILABLE", "real driver"):
                    await node.stage(volume)
                await until_sockets_are(program, before)
    assert not box.mounts()


async def test_a_driver_that_refuses_for_now_is_looked_for_again_and_nothing_is_left_open(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving() as program:
        async with calling(box) as node:
            volume = await real.volume("v")
            await live(node, volume)
            before = sockets(program)
            count_questions(real, NodeStageVolume={"code": "UNAVAILABLE", "times": 5})
            for _ in range(5):
                with refused("UNAVAILABLE"):
                    await node.stage(volume)
            assert asked(real) == 4  # the first came on the connection of before
            await live(node, volume)
            assert asked(real) == 5
            await until_sockets_are(program, before)


async def test_a_driver_that_hangs_is_found_out_by_the_next_call(
    box: node_box.Box, real: LoopDriver
) -> None:
    with real.serving(), box.serving():
        async with calling(box) as node:
            volume = await real.volume("v")
            await live(node, volume)
            assert real.process is not None
            real.process.send_signal(signal.SIGSTOP)
            try:
                request = csi_pb2.NodeStageVolumeRequest(
                    volume_id=volume.id,
                    staging_target_path=box.staging(volume.id),
                    volume_capability=volume.capability,
                    volume_context=volume.context,
                )
                with refused("DEADLINE_EXCEEDED"):
                    await node.stub.NodeStageVolume(request, timeout=0.5)
                # Without a deadline of the caller's: it is the connection that is not made.
                with refused("UNAVAILABLE", "real driver"):
                    await node.stage(volume)
            finally:
                real.process.send_signal(signal.SIGCONT)
            await eventually(node.stage, volume)  # it may still work on what it was asked then
            await live(node, volume)
    assert not box.mounts()
