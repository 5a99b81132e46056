"""Whether a role works, asked the way its callers ask: over its own socket.

kubelet's own gRPC probe speaks neither unix sockets nor CSI's Probe, so this
answers over HTTP. No API server has a say: restarting the driver would not
bring one back.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import grpc
import grpc.aio

from csi_liqo.app import http
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc

PROBE_SECONDS: Final = 3.0
"""Below the liveness probe's timeout, so that the answer has a reason in it."""


class Health:
    """Answers /healthz: whether a restart would help; and /readyz: whether calls are served.

    ``problem`` is asked too: what else keeps this role from working, empty when nothing.
    """

    def __init__(self, socket: pathlib.Path, *, problem: Callable[[], str] = lambda: "") -> None:
        self._socket = socket
        self._problem = problem

    async def page(self) -> http.Page:
        """Return 200, or 503 with the reason."""
        _, reason = await self._probe()
        return _page(reason)

    async def ready_page(self) -> http.Page:
        """Return 200 once calls are served, else 503 with the reason.

        A rollout goes on by it: the last pod that serves must not go for one that waits.
        """
        ready, reason = await self._probe()
        return _page(reason if reason or ready else "it waits for an API server")

    async def _probe(self) -> tuple[bool, str]:
        """Return whether Probe answers "ready", and what is wrong that a restart may mend."""
        # A connection of its own each time: whether one can be made is half of the question.
        async with grpc.aio.insecure_channel(f"unix:{self._socket}") as channel:
            try:
                answer = await csi_pb2_grpc.IdentityStub(channel).Probe(
                    csi_pb2.ProbeRequest(), timeout=PROBE_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                return False, f"Probe on {self._socket}: {error.code().name} {error.details()}"
        if answer.HasField("ready") and not answer.ready.value:
            return False, ""  # it waits for an API server: a restart would not bring that back
        return True, self._problem()


def _page(reason: str) -> http.Page:
    if reason:
        return http.Page(status=HTTPStatus.SERVICE_UNAVAILABLE, body=f"{reason}\n".encode())
    return http.Page(body=b"ok\n")
