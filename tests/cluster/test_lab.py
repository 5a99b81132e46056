"""Bare control planes: each failure that tests make with them is a real one."""

from __future__ import annotations

import asyncio
import pathlib
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from lab import api, binaries, control_plane, processes, settings
from tests import control_planes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LINKS = settings.DEFAULT_INSTANCE / "bin"
CLASS = "/apis/storage.k8s.io/v1/storageclasses"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
# A process that dies without a chance to end what it started.
TEST = """
import asyncio, pathlib, sys
from lab import control_plane, settings
async def main():
    directory = pathlib.Path(sys.argv[1])
    links = settings.DEFAULT_INSTANCE / "bin"
    async with control_plane.ControlPlane.start("rome", directory, links):
        print("up", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
async def plane(tmp_path: pathlib.Path) -> AsyncIterator[control_plane.ControlPlane]:
    await binaries.ensure(LINKS, ["etcd", "kubernetes"])
    async with control_plane.ControlPlane.start("rome", tmp_path / "rome", LINKS) as plane:
        yield plane


async def test_a_killed_api_server_comes_back_with_its_objects(
    plane: control_plane.ControlPlane,
) -> None:
    async with await api.Api.of(plane.kubeconfig) as server:
        await server.create(CLASS, _real_class())

    await plane.restart_component("etcd")
    await plane.restart_component("kube-apiserver")

    async with await api.Api.of(plane.kubeconfig) as server:
        assert (await server.get(f"{CLASS}/hostpath"))["provisioner"] == "kubernetes.io/host-path"


async def test_a_paused_component_does_not_answer_until_it_is_resumed(
    plane: control_plane.ControlPlane,
) -> None:
    daemon = plane.components["kube-scheduler"]

    daemon.pause()
    assert daemon.running()
    assert not await plane.healthy("kube-scheduler")

    daemon.resume()
    await plane.start_component("kube-scheduler")
    assert await plane.healthy("kube-scheduler")


async def test_a_user_has_no_more_rights_than_its_groups(
    plane: control_plane.ControlPlane,
) -> None:
    async with await api.Api.of(plane.kubeconfig_for("jane", ["developers"])) as server:
        with pytest.raises(api.ApiError) as refused:
            await server.get(CLAIMS)

    assert refused.value.status == 403
    assert 'User "jane"' in refused.value.message


async def test_volumes_of_the_host_path_provisioner_are_the_clusters_own(
    plane: control_plane.ControlPlane,
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "hostpath",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    async with await api.Api.of(plane.kubeconfig) as server:
        await server.create(CLASS, _real_class())
        await server.create(CLAIMS, claim)
        await control_planes.wait_until(server, CLAIMS, "data", _is_bound)

    assert len(list(plane.hostpath_directory.iterdir())) == 1
    assert not list(pathlib.Path(settings.HOSTPATH_DIRECTORY).iterdir())


async def test_control_planes_end_with_the_process_that_started_them(
    tmp_path: pathlib.Path,
) -> None:
    directory = tmp_path / "rome"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TEST, str(directory)),
        cwd=settings.REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"up\n"
    children = [processes.read_identity(path) for path in directory.glob("*.pid")]
    assert len(children) == 4

    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    async with asyncio.timeout(10):
        for child in children:
            assert child is not None
            await child.gone()


def _is_bound(claim: api.Json | None) -> bool:
    return claim is not None and claim["status"].get("phase") == "Bound"


def _real_class() -> api.Json:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "hostpath"},
        "provisioner": "kubernetes.io/host-path",
    }
