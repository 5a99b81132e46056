"""Nodes for the tests of the node role: one shared by most, one of its own where it dies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest

from tests.host import kubelet_calls, node_box, real_driver


@pytest.fixture(scope="session")
def shared_box() -> Iterator[node_box.Box]:
    """A node whose program runs for the whole session; each test has volumes of its own."""
    box = node_box.Box()
    try:
        with box.serving():
            yield box
    finally:
        box.close()


@pytest.fixture
def box() -> Iterator[node_box.Box]:
    """A node of this test alone, whose program the test starts and ends."""
    made = node_box.Box()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def node(shared_box: node_box.Box) -> AsyncIterator[kubelet_calls.Kubelet]:
    """What kubelet asks of the shared node."""
    async with grpc.aio.insecure_channel(f"unix:{shared_box.driver}/csi.sock") as channel:
        yield kubelet_calls.Kubelet(shared_box, channel)


@pytest.fixture
def real(box: node_box.Box) -> Iterator[real_driver.LoopDriver]:
    """A real driver beside the node program of this test alone; the test starts both."""
    driver = real_driver.LoopDriver(box)
    try:
        yield driver
    finally:
        driver.stop()
        box.unmount_all()
        driver.detach()
