"""The node program: registration, health, memory, the way it starts, stops and dies."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import grpc
import grpc.aio
import pytest

from csi_liqo.rpc.pb import (
    csi_pb2,
    csi_pb2_grpc,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)
from lab import ports
from tests.host import node_box
from tests.host.kubelet_calls import Kubelet, host_path, refused

MOST_RESIDENT_KIB = 48 * 1024

REGISTERED = pluginregistration_pb2.RegistrationStatus(plugin_registered=True)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def registry(box: node_box.Box) -> pathlib.Path:
    return box.kubelet / "plugins_registry" / "csi.liqo.io-reg.sock"


def opened(path: pathlib.Path) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"unix:{path}")


async def test_kubelet_learns_who_and_where_within_a_second(shared_box: node_box.Box) -> None:
    async with opened(registry(shared_box)) as channel:
        info = await pluginregistration_pb2_grpc.RegistrationStub(channel).GetInfo(
            pluginregistration_pb2.InfoRequest(), timeout=1
        )
    assert (info.type, info.name) == ("CSIPlugin", "csi.liqo.io")
    assert list(info.supported_versions) == ["1.0.0"]
    async with opened(pathlib.Path(info.endpoint)) as channel:
        node = await csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest())
    assert node.node_id == "rome-1"
    assert dict(node.accessible_topology.segments) == {
        "topology.csi.liqo.io/cluster": "rome",
        "topology.csi.liqo.io/node": "rome-1",
    }


async def test_what_is_advertised_is_served_and_the_rest_is_not(node: Kubelet) -> None:
    told = await node.stub.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest())
    names = {
        csi_pb2.NodeServiceCapability.RPC.Type.Name(item.rpc.type) for item in told.capabilities
    }
    assert names == {
        *("STAGE_UNSTAGE_VOLUME", "GET_VOLUME_STATS", "EXPAND_VOLUME"),
        *("SINGLE_NODE_MULTI_WRITER", "VOLUME_MOUNT_GROUP"),
    }
    with refused("NOT_FOUND"):
        await node.stub.NodeExpandVolume(
            csi_pb2.NodeExpandVolumeRequest(volume_id="v", volume_path="/x")
        )
    with refused("UNIMPLEMENTED"):
        await node.stub.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest(volume_id="v"))


@pytest.mark.parametrize(
    ("method", "fields", "missing"),
    [
        ("NodeStageVolume", {}, "volume_id"),
        ("NodeStageVolume", {"volume_id": "v"}, "staging_target_path"),
        ("NodeStageVolume", {"volume_id": "v", "staging_target_path": "/x"}, "access_mode"),
        ("NodeUnstageVolume", {}, "volume_id"),
        ("NodeUnstageVolume", {"volume_id": "v"}, "staging_target_path"),
        ("NodePublishVolume", {}, "volume_id"),
        ("NodePublishVolume", {"volume_id": "v"}, "target_path"),
        ("NodePublishVolume", {"volume_id": "v", "target_path": "/x"}, "access_mode"),
        ("NodeUnpublishVolume", {}, "volume_id"),
        ("NodeUnpublishVolume", {"volume_id": "v"}, "target_path"),
        ("NodeGetVolumeStats", {}, "volume_id"),
        ("NodeGetVolumeStats", {"volume_id": "v"}, "volume_path"),
    ],
)
async def test_a_missing_field_is_named(
    node: Kubelet, method: str, fields: dict[str, str], missing: str
) -> None:
    request = getattr(csi_pb2, f"{method}Request")(**fields)
    with refused("INVALID_ARGUMENT", missing):
        await getattr(node.stub, method)(request)


async def test_publishing_without_a_staging_path_is_out_of_order(node: Kubelet) -> None:
    volume = host_path("unstaged", "/x")
    with refused("FAILED_PRECONDITION", "staging_target_path"):
        await node.stub.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(
                volume_id=volume.id,
                target_path=node.box.target(volume.id),
                volume_capability=volume.capability,
                volume_context=volume.context,
            )
        )


async def test_healthy_means_registered_since_the_start(box: node_box.Box) -> None:
    (port,) = ports.take(1)
    for _ in range(2):
        with box.serving("--health-address", f"127.0.0.1:{port}"):
            status, reason = await asyncio.to_thread(get, port, "/healthz")
            assert (status, reason) == (503, "kubelet has not registered the driver yet\n")
            async with opened(registry(box)) as channel:
                stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
                await stub.NotifyRegistrationStatus(
                    pluginregistration_pb2.RegistrationStatus(error="name taken")
                )
                status, reason = await asyncio.to_thread(get, port, "/healthz")
                assert (status, reason) == (503, "kubelet refused the driver: name taken\n")
                await stub.NotifyRegistrationStatus(REGISTERED)
            assert await asyncio.to_thread(get, port, "/healthz") == (200, "ok\n")


async def test_without_registration_there_is_no_socket_for_it_and_health_is_probe(
    box: node_box.Box,
) -> None:
    (port,) = ports.take(1)
    with box.serving("--no-registration", "--health-address", f"127.0.0.1:{port}"):
        assert not registry(box).exists()
        assert await asyncio.to_thread(get, port, "/healthz") == (200, "ok\n")


async def test_a_dead_socket_is_unhealthy(box: node_box.Box) -> None:
    (port,) = ports.take(1)
    with box.serving("--no-registration", "--health-address", f"127.0.0.1:{port}"):
        (box.driver / "csi.sock").unlink()
        status, reason = await asyncio.to_thread(get, port, "/healthz")
        assert status == 503
        assert "UNAVAILABLE" in reason


async def test_metrics_count_calls_by_method_and_code(box: node_box.Box) -> None:
    (port,) = ports.take(1)
    with box.serving("--metrics-address", f"127.0.0.1:{port}"):
        async with opened(box.driver / "csi.sock") as channel:
            node = Kubelet(box, channel)
            with refused("NOT_FOUND"):
                await node.stage(host_path("v", "/gone"))
        status, text = await asyncio.to_thread(get, port, "/metrics")
    assert status == 200
    assert 'csi_liqo_rpc_seconds_count{code="NOT_FOUND",method="NodeStageVolume"} 1.0' in text


def test_sigterm_leaves_no_socket_and_is_a_clean_end(box: node_box.Box) -> None:
    with box.serving() as program:
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    assert os.listdir(box.kubelet / "plugins_registry") == []
    assert os.listdir(box.driver) == ["journal"]


async def test_sigterm_lets_a_running_call_end(box: node_box.Box) -> None:
    """Of many calls under way some have begun: these end well, the others are told to retry."""
    path = box.folder("data")
    with box.serving() as program:
        async with opened(box.driver / "csi.sock") as channel:
            node = Kubelet(box, channel)
            volumes = [host_path(f"v-{number}", path) for number in range(40)]
            calls = [asyncio.create_task(node.up(volume)) for volume in volumes]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            program.send_signal(signal.SIGTERM)
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert await asyncio.to_thread(program.wait, 30) == 0
    refusals = [result for result in results if not isinstance(result, str)]
    for refusal in refusals:
        assert isinstance(refusal, grpc.aio.AioRpcError)
        assert refusal.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert len(refusals) < len(results)


async def test_killed_and_started_again_it_serves_over_its_old_sockets(box: node_box.Box) -> None:
    volume = host_path("v", box.folder("data", {"file": "precious"}))
    with box.serving() as program:
        async with opened(box.driver / "csi.sock") as channel:
            target = await Kubelet(box, channel).up(volume)
        program.kill()
        program.wait(20)
    assert registry(box).exists()
    assert (box.path(pathlib.Path(target)) / "file").read_text() == "precious"
    registry(box).unlink()  # so that its coming back can be waited for
    with box.serving():
        async with opened(box.driver / "csi.sock") as channel:
            node = Kubelet(box, channel)
            assert await node.publish(volume) == target
            assert await node.stats(volume, target)
            await node.down(volume)
    assert not box.mounts()


def test_a_second_program_on_the_node_refuses_to_start(box: node_box.Box) -> None:
    with box.serving():
        command = [sys.executable, "-m", "csi_liqo.cli", "node", *box.arguments()]
        second = box.start(*command)
        assert second.wait(20) == 1
        assert registry(box).exists()


def test_it_stays_small(box: node_box.Box) -> None:
    with box.serving() as program:
        status = pathlib.Path(f"/proc/{program.pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    assert int(resident[1]) <= MOST_RESIDENT_KIB


def test_it_imports_nothing_that_only_others_use() -> None:
    """The import-linter sees what the code says, this what it does."""
    code = (
        "import sys, csi_liqo.app.lean_node, csi_liqo.app.node, csi_liqo.app.logs;"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=node_box.ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    packages = {name.partition(".")[0] for name in loaded}
    unwanted = {"kubernetes", "rich", "aiohttp", "typer", "click", "pydantic", "requests", "yaml"}
    assert not packages & unwanted
    parts = {"kube", "reconcilers", "transfer", "cli", "service.controller", "rpc.controller"}
    own = {name.removeprefix("csi_liqo.") for name in loaded if name.startswith("csi_liqo.")}
    assert not own & parts
