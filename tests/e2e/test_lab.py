"""The lab comes back after every crash, and goes without a trace."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from lab import errors, instance, lifecycle, network, processes, settings
from tests.e2e import machine

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator

POD = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: hostpath-wffc
  resources: {requests: {storage: 1Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  nodeSelector: {kubernetes.io/hostname: rome-1}
  containers:
    - name: writer
      image: docker.io/library/busybox:1.35
      command: [sh, -c, "echo written > /data/file; exec sleep 100000"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: data}
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def owner(tmp_path: pathlib.Path) -> AsyncIterator[instance.Instance]:
    owner = instance.Instance(tmp_path / "lab")
    yield owner
    await lifecycle.down(owner, print)


async def up(owner: instance.Instance) -> None:
    await lifecycle.up(owner, print, driver=False)


def octet_of(owner: instance.Instance) -> int:
    octet = owner.recorded_octet
    assert octet is not None
    return octet


async def run_a_pod(owner: instance.Instance) -> None:
    rome = lifecycle.describe(owner, octet_of(owner)).consumer
    await rome.kubectl("apply", "-f", "-", stdin=POD)
    await rome.kubectl("wait", "--for=condition=Ready", "pod/writer", "--timeout=60s")


def kill_everything(owner: instance.Instance) -> None:
    for pid in owner.group.processes():
        os.kill(pid, signal.SIGKILL)


async def test_a_lab_that_was_killed_comes_back_with_its_objects_and_goes_without_a_trace(
    owner: instance.Instance,
) -> None:
    await up(owner)
    octet = octet_of(owner)
    await run_a_pod(owner)

    kill_everything(owner)
    await up(owner)
    rome = lifecycle.describe(owner, octet).consumer
    restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    await rome.kubectl("wait", restarted, "pod/writer", "--timeout=90s")
    read = await rome.kubectl("exec", "writer", "--", "cat", "/data/file")
    assert read == "written\n"

    kill_everything(owner)
    await lifecycle.down(owner, print)
    assert machine.remains(owner, octet) == set()
    await lifecycle.down(owner, print)


async def test_up_repairs_what_died_and_leaves_the_rest_alone(owner: instance.Instance) -> None:
    await up(owner)
    began = time.monotonic()
    await up(owner)
    assert time.monotonic() - began < 5, "a healthy lab needs nothing"

    milan = owner.cluster_directory("milan")
    rome = owner.cluster_directory("rome")
    kept = processes.read_identity(rome / "rome-2" / "kubelet.pid")
    assert kept is not None
    for dead in (
        milan / "milan-1" / "holder.pid",
        rome / "etcd.pid",
        owner.directory / "switch.pid",
    ):
        identity = processes.read_identity(dead)
        assert identity is not None
        identity.signal(signal.SIGKILL)
    assert not (await lifecycle.status(owner)).healthy

    await up(owner)

    assert (await lifecycle.status(owner)).healthy
    assert kept.alive()


@pytest.mark.parametrize("moment", ["connecting the network", "waiting for the nodes"])
async def test_down_removes_a_lab_whose_up_was_killed_halfway(
    owner: instance.Instance, moment: str
) -> None:
    command = [sys.executable, "-m", "lab", "up", "--no-driver", f"--instance={owner.directory}"]
    bringing_up = await asyncio.create_subprocess_exec(
        *command, cwd=settings.REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert bringing_up.stdout is not None
    while line := await bringing_up.stdout.readline():
        if moment in line.decode():
            break
    assert line, "it ended before"
    bringing_up.kill()
    await bringing_up.wait()
    octet = owner.preferred_octet

    await lifecycle.down(owner, print)

    assert machine.remains(owner, octet) == set()


async def test_two_labs_never_share_an_address_range(tmp_path: pathlib.Path) -> None:
    first, second = (instance.Instance(tmp_path / name) for name in ("first", "second"))
    second.record_octet(first.preferred_octet)
    try:
        ranges = [(await network.Network(owner).ensure()).whole for owner in (first, second)]
        assert not ranges[0].overlaps(ranges[1])

        await lifecycle.down(second, print)
        assert await network.Network(first).healthy()
    finally:
        for owner in (first, second):
            await lifecycle.down(owner, print)


async def test_a_second_command_on_the_same_lab_is_refused(owner: instance.Instance) -> None:
    with owner.locked(), pytest.raises(errors.LabError, match="another command"):
        await processes.run(sys.executable, "-m", "lab", "down", f"--instance={owner.directory}")
