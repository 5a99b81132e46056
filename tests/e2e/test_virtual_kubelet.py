"""Logs and exec of an offloaded pod, from kubectl here to the container there."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, NamedTuple

import pytest

from lab import api, instance, lifecycle, settings
from lab.faults import proxy, rules
from tests import control_planes

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

PODS = "/api/v1/namespaces/default/pods"
# Ends at once when asked to, so that deletion takes no grace period.
SCRIPT = "trap 'exit 0' TERM; echo one; echo two; while true; do sleep 1; done"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[instance.Instance]:
    owner = instance.Instance(tmp_path_factory.mktemp("lab"))
    try:
        asyncio.run(lifecycle.up(owner, print, driver=False))
        yield owner
    finally:
        asyncio.run(lifecycle.down(owner, print))


def kubeconfig(lab: instance.Instance, cluster: str) -> pathlib.Path:
    return lab.cluster_directory(cluster) / "kubeconfig"


@pytest.fixture
async def consumer(lab: instance.Instance) -> AsyncIterator[api.Api]:
    async with await api.Api.of(kubeconfig(lab, "rome")) as server:
        yield server


@pytest.fixture
async def pod(consumer: api.Api) -> AsyncIterator[str]:
    """A pod that runs in milan, seen from rome."""
    await control_planes.wait_until_there(
        consumer, "/api/v1/namespaces/default/serviceaccounts", "default"
    )
    container = {
        "name": "app",
        "image": settings.BUSYBOX_IMAGE,
        "command": ["sh", "-c", SCRIPT],
    }
    body = {
        "metadata": {"name": "app"},
        "spec": {"nodeName": settings.PROVIDER, "containers": [container]},
    }
    created = await consumer.create(PODS, body)
    await control_planes.wait_until(
        consumer,
        PODS,
        "app",
        lambda item: item is not None and item["status"]["phase"] == "Running",
        timeout_seconds=60,
    )
    yield "app"
    await consumer.delete(f"{PODS}/app", uid=created["metadata"]["uid"])
    await control_planes.wait_until_gone(consumer, PODS, "app")


class Answer(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes


async def kubectl(
    lab: instance.Instance,
    *arguments: str,
    stdin: bytes = b"",
    through: pathlib.Path | None = None,
) -> Answer:
    process = await asyncio.create_subprocess_exec(
        str(lab.binaries / "kubectl"),
        f"--kubeconfig={through or kubeconfig(lab, 'rome')}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate(stdin)
    assert process.returncode is not None
    return Answer(process.returncode, stdout, stderr)


async def test_kubectl_reads_and_enters_a_pod_of_the_other_cluster(
    lab: instance.Instance, pod: str
) -> None:
    assert (await kubectl(lab, "logs", pod, "--tail=1")).stdout == b"two\n"

    answer = await kubectl(
        lab, "exec", "-i", pod, "--", "sh", "-c", "cat; echo bad >&2; exit 3", stdin=b"hello"
    )
    assert (answer.code, answer.stdout) == (3, b"hello")
    assert b"bad\n" in answer.stderr

    # Far more than any buffer on the way holds.
    make = "dd if=/dev/urandom of=/tmp/big bs=1M count=8 2>/dev/null; sha256sum /tmp/big"
    digest = (await kubectl(lab, "exec", pod, "--", "sh", "-c", make)).stdout.split()[0].decode()
    content = (await kubectl(lab, "exec", pod, "--", "cat", "/tmp/big")).stdout
    assert hashlib.sha256(content).hexdigest() == digest


async def test_exec_passes_a_fault_proxy_and_is_cut_by_it(
    lab: instance.Instance, pod: str, tmp_path: pathlib.Path
) -> None:
    async with proxy.FaultProxy(kubeconfig(lab, "rome"), tmp_path) as faults:
        echo = ("exec", "-i", pod, "--", "sh", "-c", "cat; exit 3")
        answer = await kubectl(lab, *echo, stdin=b"hello", through=faults.kubeconfig)
        assert (answer.code, answer.stdout) == (3, b"hello"), answer.stderr

        sleeping = asyncio.create_task(
            kubectl(lab, "exec", pod, "--", "sleep", "60", through=faults.kubeconfig)
        )
        pause = faults.pause_at(1, rules.When.BEFORE, rules.Match(subresource="exec"))
        await pause.wait_until_reached()
        pause.release()
        await faults.go_down()

        assert (await sleeping).code != 0


async def test_following_a_log_ends_with_its_pod(
    lab: instance.Instance, pod: str, consumer: api.Api
) -> None:
    following = asyncio.create_task(kubectl(lab, "logs", "--follow", pod))
    found = await consumer.get(f"{PODS}/{pod}")

    await consumer.delete(f"{PODS}/{pod}", uid=found["metadata"]["uid"])

    assert (await following).stdout == b"one\ntwo\n"
