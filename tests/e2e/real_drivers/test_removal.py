"""Two installations side by side on nodes: one goes, and the other one's pods do not notice."""

from __future__ import annotations

import pytest

from lab import instance
from tests.e2e.real_drivers import conftest, storage_lab
from tests.e2e.real_drivers.storage_lab import DRIVERS, Lab

pytestmark = pytest.mark.timeout(600)

NODE = "rome-1"


async def test_the_installation_that_attaches_is_removed_under_the_others_pods(
    owner: instance.Instance, lab: Lab
) -> None:
    kept = storage_lab.storage_class("kept", DRIVERS[0], {"localClass": "loop-ext4"})
    objects = [kept, storage_lab.claim("before", "kept"), storage_lab.claim("after", "kept")]
    write = "echo content > /data/file; echo written"
    await lab.apply(*objects)
    await lab.run(storage_lab.pod("before", "before", NODE, write))
    container = await lab.containers("before")
    try:
        await lab.kubectl("delete", "-k", str(conftest.ROOT / "deploy/attach"), "--timeout=120s")

        said = await lab.run(
            storage_lab.pod("again", "before", NODE, "cat /data/file"),
            storage_lab.pod("after", "after", NODE, write),
        )
        assert said == {"again": "content", "after": "written"}
        assert await lab.containers("before") == container
        await lab.kubectl("wait", "--for=condition=Ready", "remotecluster/milan", "--timeout=60s")
    finally:
        await conftest.install_attaching(owner)
    await lab.end("before", "again", "after")
    await lab.delete(*objects)
