"""What kubelet repeats every minute does not fill the log."""

from __future__ import annotations

import functools
import logging
import pathlib
from typing import Any, cast

import grpc.aio
import pytest

from csi_liqo.model import errors, source
from csi_liqo.rpc import interceptors, node, server
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc


class Scripted:
    """A use case that publishes once, then says so, and at last fails."""

    def __init__(self) -> None:
        self.answers: list[bool | Exception] = [
            *(True, False, False),
            errors.OutcomeUnknownError("gone"),
        ]

    async def publish(self, *_: object) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_publish_that_does_nothing_new_is_logged_at_debug_only(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def no_limit() -> int:
        return 0

    caplog.set_level(logging.INFO)
    serves = node.NodeServicer(
        cast("Any", Scripted()),
        cast("Any", None),  # no real driver is called
        most_volumes=no_limit,
        node_name="rome-1",
        segment={},
    )
    add = functools.partial(csi_pb2_grpc.add_NodeServicer_to_server, serves)
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="v",
        target_path="/t",
        volume_capability=csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(),
            access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER"),
        ),
        volume_context=source.to_context(source.Source(kind=source.Kind.LOCAL, path="/a")),
    )
    path = tmp_path / "csi.sock"
    async with (
        server.serving(path, [add], around=interceptors.ErrorsToStatus().around),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        stub = csi_pb2_grpc.NodeStub(channel)
        for _ in range(3):
            await stub.NodePublishVolume(request)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.NodePublishVolume(request)
        await stub.NodeGetInfo(csi_pb2.NodeGetInfoRequest())
    lines = [record.getMessage().split(" ")[:2] for record in caplog.records]
    assert lines == [["NodePublishVolume", "OK"], ["NodePublishVolume", "UNAVAILABLE"]]
