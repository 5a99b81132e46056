"""Servicers on a real socket with a real client: statuses, log lines, the socket's life."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import pathlib
import socket
import stat
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest

from csi_liqo.model import errors, ids, source, volumes
from csi_liqo.rpc import controller, identity, interceptors, server
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc

SECRET = {"key": "hunter2"}


class Scripted:
    """A use case that does what the test says: answers, fails, or waits."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.reason = ""
        self.seen: volumes.CreateRequest | None = None
        self.deadline: float | None = None
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = asyncio.Event()

    async def create(
        self, request: volumes.CreateRequest, deadline_seconds: float | None
    ) -> volumes.Volume:
        self.seen, self.deadline = request, deadline_seconds
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.failure is not None:
            raise self.failure
        return volumes.Volume(
            id=ids.volume_id(request.name),
            capacity_bytes=7,
            context={"a": "b"},
            topology=({"t": "rome"},),
        )

    async def delete(self, volume_id: str, deadline_seconds: float | None) -> None:
        if self.failure is not None:
            raise self.failure

    async def validate(
        self,
        volume_id: str,
        capabilities: tuple[volumes.VolumeCapability, ...],
        context: Mapping[str, str],
        parameters: Mapping[str, str],
    ) -> str:
        return self.reason


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "deep" / "csi.sock"


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


Counted = list[tuple[str, str]]


@pytest.fixture
def counted() -> Counted:
    return []


@pytest.fixture
async def channel(
    path: pathlib.Path, scripted: Scripted, counted: Counted
) -> AsyncIterator[grpc.aio.Channel]:
    def observe(*, method: str, code: str, seconds: float) -> None:
        counted.append((method, code))

    who = identity.IdentityServicer(
        name="csi.liqo.io",
        version="0.1.0",
        is_ready=lambda: True,
        capabilities=[csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE],
    )
    services = [
        functools.partial(csi_pb2_grpc.add_IdentityServicer_to_server, who),
        functools.partial(
            csi_pb2_grpc.add_ControllerServicer_to_server, controller.ControllerServicer(scripted)
        ),
    ]
    around = interceptors.ErrorsToStatus(observe).around
    async with (
        server.serving(path, services, around=around, grace_seconds=5),
        grpc.aio.insecure_channel(f"unix:{path}") as opened,
    ):
        yield opened


def create_request(**changes: object) -> csi_pb2.CreateVolumeRequest:
    request = csi_pb2.CreateVolumeRequest(
        name="pvc-1",
        volume_capabilities=[
            csi_pb2.VolumeCapability(
                mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4"),
                access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER"),
            )
        ],
        secrets=SECRET,
    )
    request.MergeFrom(csi_pb2.CreateVolumeRequest(**changes))  # type: ignore[arg-type]  # by name
    return request


async def test_create_volume_carries_the_request_in_and_the_volume_out(
    channel: grpc.aio.Channel, scripted: Scripted
) -> None:
    answer = await csi_pb2_grpc.ControllerStub(channel).CreateVolume(
        create_request(
            capacity_range=csi_pb2.CapacityRange(required_bytes=5, limit_bytes=9),
            parameters={"csi.storage.k8s.io/pvc/name": "data"},
            accessibility_requirements=csi_pb2.TopologyRequirement(
                preferred=[csi_pb2.Topology(segments={"t": "rome"})]
            ),
        ),
        timeout=30,
    )
    assert scripted.seen == volumes.CreateRequest(
        name="pvc-1",
        required_bytes=5,
        limit_bytes=9,
        capabilities=(
            volumes.VolumeCapability(
                access_mode=volumes.AccessMode.SINGLE_NODE_WRITER,
                volume_mode=source.VolumeMode.FILESYSTEM,
                fs_type="ext4",
            ),
        ),
        parameters={"csi.storage.k8s.io/pvc/name": "data"},
        requirement=scripted.seen.requirement if scripted.seen else None,  # type: ignore[arg-type]
    )
    assert scripted.seen.requirement.candidates() == ({"t": "rome"},)
    assert scripted.deadline is not None
    assert 0 < scripted.deadline < 31
    assert answer.volume == csi_pb2.Volume(
        volume_id="pvc-1",
        capacity_bytes=7,
        volume_context={"a": "b"},
        accessible_topology=[csi_pb2.Topology(segments={"t": "rome"})],
    )


async def test_no_deadline_is_told_as_none(channel: grpc.aio.Channel, scripted: Scripted) -> None:
    await csi_pb2_grpc.ControllerStub(channel).CreateVolume(create_request())
    assert scripted.deadline is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(csi_pb2.CreateVolumeRequest(), "name", id="no-name"),
        pytest.param(create_request(name="x" * 129), "name", id="name-too-long"),
        pytest.param(
            csi_pb2.CreateVolumeRequest(name="v"), "volume_capabilities", id="no-capability"
        ),
        pytest.param(
            create_request(volume_capabilities=[csi_pb2.VolumeCapability()]),
            "access_mode",
            id="no-access-mode",
        ),
        pytest.param(
            create_request(
                volume_capabilities=[
                    csi_pb2.VolumeCapability(
                        access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER")
                    )
                ]
            ),
            "neither block nor mount",
            id="no-access-type",
        ),
        pytest.param(
            create_request(capacity_range=csi_pb2.CapacityRange(required_bytes=-1)),
            "capacity_range",
            id="negative-size",
        ),
        pytest.param(
            create_request(capacity_range=csi_pb2.CapacityRange(required_bytes=2, limit_bytes=1)),
            "limit_bytes",
            id="limit-below-required",
        ),
        pytest.param(
            create_request(parameters={"k": "v" * 4096}), "parameters", id="map-too-large"
        ),
    ],
)
async def test_a_malformed_request_is_refused_before_any_lookup(
    channel: grpc.aio.Channel,
    scripted: Scripted,
    request_: csi_pb2.CreateVolumeRequest,
    field: str,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await csi_pb2_grpc.ControllerStub(channel).CreateVolume(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")
    assert scripted.seen is None


async def test_validate_confirms_by_echoing_and_denies_with_the_reason(
    channel: grpc.aio.Channel, scripted: Scripted
) -> None:
    stub = csi_pb2_grpc.ControllerStub(channel)
    request = csi_pb2.ValidateVolumeCapabilitiesRequest(
        volume_id="v",
        volume_context={"a": "b"},
        volume_capabilities=create_request().volume_capabilities,
        parameters={"p": "q"},
    )
    confirmed = (await stub.ValidateVolumeCapabilities(request)).confirmed
    assert confirmed.volume_capabilities == request.volume_capabilities
    assert dict(confirmed.volume_context) == {"a": "b"}
    assert dict(confirmed.parameters) == {"p": "q"}
    scripted.reason = "block is not offered"
    denied = await stub.ValidateVolumeCapabilities(request)
    assert not denied.HasField("confirmed")
    assert denied.message == "block is not offered"


async def test_a_failure_reaches_the_client_with_its_status_and_text(
    channel: grpc.aio.Channel, scripted: Scripted, counted: Counted
) -> None:
    scripted.failure = errors.PlacementError("no storage in rome")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await csi_pb2_grpc.ControllerStub(channel).CreateVolume(create_request())
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.value.details() == "no storage in rome"
    assert counted == [("CreateVolume", "RESOURCE_EXHAUSTED")]


async def test_a_defect_is_logged_with_its_trace_and_told_without_its_text(
    channel: grpc.aio.Channel, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.failure = ZeroDivisionError("the inner secret")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await csi_pb2_grpc.ControllerStub(channel).CreateVolume(create_request())
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "the inner secret" not in (failed.value.details() or "")
    assert "the inner secret" in caplog.text


@pytest.mark.parametrize("method", ["ControllerPublishVolume", "ListVolumes"])
async def test_what_is_not_served_is_unimplemented(channel: grpc.aio.Channel, method: str) -> None:
    stub = csi_pb2_grpc.ControllerStub(channel)
    request = getattr(csi_pb2, f"{method}Request")()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(stub, method)(request)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details()


async def test_a_service_nobody_added_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await csi_pb2_grpc.NodeStub(channel).NodeGetInfo(csi_pb2.NodeGetInfoRequest())
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_each_call_is_one_line_with_an_id_and_no_secret(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(interceptors.CallIdFilter())
    caplog.set_level(logging.INFO)
    await csi_pb2_grpc.ControllerStub(channel).CreateVolume(create_request())
    await csi_pb2_grpc.IdentityStub(channel).Probe(csi_pb2.ProbeRequest())
    lines = [record for record in caplog.records if "csi_liqo" in record.name]
    assert [record.getMessage().split(" ")[:2] for record in lines] == [["CreateVolume", "OK"]]
    assert "hunter2" not in caplog.text


async def test_a_client_that_gives_up_cancels_the_call(
    channel: grpc.aio.Channel, scripted: Scripted, counted: Counted
) -> None:
    scripted.go_on.clear()
    with pytest.raises(grpc.aio.AioRpcError) as gave_up:
        await csi_pb2_grpc.ControllerStub(channel).CreateVolume(create_request(), timeout=0.2)
    assert gave_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(scripted.cancelled.wait(), 5)
    assert counted == [("CreateVolume", "CANCELLED")]


async def test_identity_tells_name_version_and_capabilities(channel: grpc.aio.Channel) -> None:
    stub = csi_pb2_grpc.IdentityStub(channel)
    info = await stub.GetPluginInfo(csi_pb2.GetPluginInfoRequest())
    assert (info.name, info.vendor_version) == ("csi.liqo.io", "0.1.0")
    told = await stub.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest())
    assert [item.service.type for item in told.capabilities] == [1]
    probe = await stub.Probe(csi_pb2.ProbeRequest())
    assert probe.ready.value


async def test_the_socket_is_for_its_owner_and_gone_afterwards(path: pathlib.Path) -> None:
    async with server.serving(path, []):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_nobody_listens_on_is_replaced(path: pathlib.Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with server.serving(path, []):
        pass


async def test_a_socket_somebody_serves_is_left_to_them(path: pathlib.Path) -> None:
    async with server.serving(path, []):
        before = os.stat(path)
        with pytest.raises(errors.PreconditionError, match="another process serves"):
            async with server.serving(path, []):
                pass
        assert os.path.samestat(os.stat(path), before)


async def test_a_file_that_is_no_socket_is_left_alone(path: pathlib.Path) -> None:
    path.parent.mkdir()
    path.write_text("data")
    with pytest.raises(errors.PreconditionError, match="no socket"):
        async with server.serving(path, []):
            pass
    assert path.read_text() == "data"


async def test_a_path_longer_than_a_socket_may_have_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.PreconditionError, match="107"):
        async with server.serving(tmp_path / ("x" * 108), []):
            pass


async def test_a_running_call_ends_before_the_server_does(
    path: pathlib.Path, scripted: Scripted
) -> None:
    add = functools.partial(
        csi_pb2_grpc.add_ControllerServicer_to_server, controller.ControllerServicer(scripted)
    )
    scripted.go_on.clear()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        async with server.serving(path, [add], grace_seconds=10):
            call = csi_pb2_grpc.ControllerStub(channel).CreateVolume(create_request())
            await scripted.started.wait()
            asyncio.get_running_loop().call_later(0.1, scripted.go_on.set)
        assert (await call).volume.volume_id == "pvc-1"


@pytest.mark.parametrize(
    "endpoint", ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"]
)
def test_an_endpoint_is_a_path(endpoint: str) -> None:
    assert server.path_of(endpoint) == pathlib.Path("/csi/csi.sock")


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:1", "csi.sock", "unix:csi.sock", ""])
def test_an_endpoint_that_is_no_unix_socket_is_refused(endpoint: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="unix"):
        server.path_of(endpoint)
