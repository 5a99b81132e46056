"""What the account of a real cluster notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from lab import api, control_plane, leaks
from lab.faults import proxy
from tests import control_planes

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
RESOURCES = {"requests": {"storage": "1Gi"}}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    without = frozenset({control_plane.CONTROLLERS, control_plane.SCHEDULER})
    directory = tmp_path_factory.mktemp("leaks")
    with control_planes.running("leaks", directory, without=without) as running:
        yield running


@pytest.fixture
async def server(plane: control_plane.ControlPlane) -> AsyncIterator[api.Api]:
    async with await api.Api.of(plane.kubeconfig) as client:
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            await control_planes.wait_until_there(client, "/api/v1/namespaces", name)
        yield client


def forge_claim(name: str, **metadata: object) -> api.Json:
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": RESOURCES}
    return {"metadata": {"name": name, **metadata}, "spec": spec}


async def test_nothing_done_is_no_difference(
    plane: control_plane.ControlPlane, server: api.Api
) -> None:
    before = await leaks.snapshot_cluster("rome", plane.kubeconfig)

    after = await leaks.snapshot_cluster("rome", plane.kubeconfig)

    assert leaks.difference(before, after) == []
    assert before.entries


async def test_a_claim_with_our_finalizer_is_named_and_counts_as_ours(
    plane: control_plane.ControlPlane, server: api.Api
) -> None:
    before = await leaks.snapshot_cluster("rome", plane.kubeconfig)
    await server.create(CLAIMS, forge_claim("twin", finalizers=["csi.liqo.io/twin"]))

    after = await leaks.snapshot_cluster("rome", plane.kubeconfig)

    lines = leaks.difference(before, after)
    assert "+ rome: persistentvolumeclaim default/twin" in lines
    assert "+ rome: persistentvolumeclaims default/twin: finalizer csi.liqo.io/twin" in lines
    assert "persistentvolumeclaim default/twin" in [
        f"{entry.kind} {entry.name}" for entry in after.ours
    ]


async def test_volumes_count_as_ours_by_their_driver(
    plane: control_plane.ControlPlane, server: api.Api
) -> None:
    for name, driver in (("ours", "csi.liqo.io"), ("theirs", "ebs.csi.aws.com")):
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "capacity": RESOURCES["requests"],
            "csi": {"driver": driver, "volumeHandle": name},
        }
        await server.create(VOLUMES, {"metadata": {"name": name}, "spec": spec})

    after = await leaks.snapshot_cluster("rome", plane.kubeconfig)

    volumes = [entry.name for entry in after.entries if entry.kind == "persistentvolume"]
    assert sorted(volumes) == ["ours", "theirs"]
    assert [entry.name for entry in after.ours if entry.kind == "persistentvolume"] == ["ours"]


async def test_marks_are_found_on_any_kind_of_object(
    plane: control_plane.ControlPlane, server: api.Api
) -> None:
    labels = {"topology.csi.liqo.io/cluster": "rome", "example.com/csi.liqo.io": "no"}
    await server.create("/api/v1/nodes", {"metadata": {"name": "rome-1", "labels": labels}})
    annotations = {"csi.liqo.io/claim": "default/data"}
    await server.create(
        "/api/v1/namespaces/default/secrets",
        {"metadata": {"name": "marked", "annotations": annotations}},
    )

    after = await leaks.snapshot_cluster("rome", plane.kubeconfig)

    marks = {entry.name for entry in after.ours}
    assert "rome-1: label topology.csi.liqo.io/cluster" in marks
    assert "default/marked: annotation csi.liqo.io/claim" in marks
    assert not any("example.com" in mark for mark in marks)


async def test_registered_drivers_and_attachments_are_accounted_for(
    plane: control_plane.ControlPlane, server: api.Api
) -> None:
    before = await leaks.snapshot_cluster("rome", plane.kubeconfig)
    await server.create(
        "/apis/storage.k8s.io/v1/csinodes",
        {
            "metadata": {"name": "rome-2"},
            "spec": {"drivers": [{"name": "csi.liqo.io", "nodeID": "rome-2", "topologyKeys": []}]},
        },
    )
    await server.create(
        "/apis/storage.k8s.io/v1/volumeattachments",
        {
            "metadata": {"name": "csi-liqo-1"},
            "spec": {
                "attacher": "csi.liqo.io",
                "nodeName": "rome-2",
                "source": {"persistentVolumeName": "ours"},
            },
        },
    )

    after = await leaks.snapshot_cluster("rome", plane.kubeconfig)

    assert leaks.difference(before, after) == [
        "+ rome: csinode driver csi.liqo.io on rome-2",
        "+ rome: volumeattachment csi-liqo-1",
    ]
    assert leaks.difference(after, before)[0].startswith("- ")
    kinds = {entry.kind for entry in after.ours}
    assert {"csinode driver", "volumeattachment"} <= kinds


async def test_directories_of_hostpath_volumes_are_accounted_for(
    plane: control_plane.ControlPlane, server: api.Api, tmp_path: pathlib.Path
) -> None:
    hostpath = tmp_path / "hostpath_pv"
    before = await leaks.snapshot_cluster("rome", plane.kubeconfig, hostpath=hostpath)
    (hostpath / "pvc-1").mkdir(parents=True)

    after = await leaks.snapshot_cluster("rome", plane.kubeconfig, hostpath=hostpath)

    assert leaks.difference(before, after) == ["+ rome: hostpath directory pvc-1"]


async def test_a_cluster_that_cannot_be_read_is_an_error(
    plane: control_plane.ControlPlane, tmp_path: pathlib.Path
) -> None:
    async with proxy.FaultProxy(plane.kubeconfig, tmp_path) as faults:
        await faults.go_down()

        with pytest.raises(aiohttp.ClientError):
            await leaks.snapshot_cluster("rome", faults.kubeconfig)
