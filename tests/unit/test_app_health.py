"""/healthz and /readyz, asked of a real Identity service over its own socket."""

from __future__ import annotations

import functools
from http import HTTPStatus
from pathlib import Path

import pytest

from csi_liqo.app import health
from csi_liqo.rpc import identity, server
from csi_liqo.rpc.pb import csi_pb2_grpc

OK, UNAVAILABLE = HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    ("ready", "problem", "alive", "serving"),
    [
        pytest.param(True, "", OK, OK, id="it-serves"),
        pytest.param(False, "", OK, UNAVAILABLE, id="its-caches-are-not-filled"),
        pytest.param(True, "no kubelet", UNAVAILABLE, UNAVAILABLE, id="something-else-is-wrong"),
    ],
)
async def test_a_restart_is_asked_for_only_where_it_helps(
    tmp_path: Path, ready: bool, problem: str, alive: HTTPStatus, serving: HTTPStatus
) -> None:
    path = tmp_path / "csi.sock"
    add = functools.partial(
        csi_pb2_grpc.add_IdentityServicer_to_server,
        identity.IdentityServicer(
            name="csi.liqo.io", version="1", is_ready=lambda: ready, capabilities=()
        ),
    )
    asked = health.Health(path, problem=lambda: problem)
    async with server.serving(path, [add]):
        assert (await asked.page()).status is alive
        assert (await asked.ready_page()).status is serving


async def test_a_driver_that_does_not_answer_is_neither_alive_nor_ready(tmp_path: Path) -> None:
    asked = health.Health(tmp_path / "csi.sock")

    for page in (await asked.page(), await asked.ready_page()):
        assert page.status is UNAVAILABLE
        assert b"Probe on" in page.body
