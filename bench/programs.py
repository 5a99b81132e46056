"""The programs beside the control planes: our controller, real drivers, and their sidecars.

Every csi-provisioner has the arguments of deploy/ and the same rights, so that drivers
are compared and not how their sidecars were started.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Final

import aiohttp
import grpc
import grpc.aio
import yaml

from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import api, certificates, control_plane, errors, processes, settings

CONTROLLER_USER: Final = "system:serviceaccount:csi-liqo:csi-liqo-controller"
SERVICE_ACCOUNT: Final = ("system:serviceaccounts", "system:serviceaccounts:csi-liqo")
"""The groups of a service account, which decide how the API server queues its requests."""
COUNTED_GROUP: Final = "bench:csi-liqo"
"""By which the API servers tell the driver's requests from its sidecar's."""

START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
# Not of use to one process outside of a pod.
_LEFT_OUT: Final = ("--csi-address", "--leader-election", "--http-endpoint", "--feature-gates")


def python_program(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of this repository."""
    return [sys.executable, "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return what every program is started with."""
    return {**os.environ, "PYTHONPATH": str(settings.REPOSITORY), **more}


def daemon(
    directory: pathlib.Path, name: str, command: Sequence[str], **variables: str
) -> processes.Daemon:
    """Describe a program that ends with this one; its log and record are in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    return processes.Daemon(
        name,
        command,
        log=directory / f"{name}.log",
        pid_file=directory / f"{name}.pid",
        surroundings=processes.Surroundings(environment=environment(**variables)),
    )


def sidecar_arguments(name: str, workload: str = "deploy/base/controller.yaml") -> list[str]:
    """Return the arguments that deploy/ gives a sidecar, without those that only pods need."""
    manifests = yaml.safe_load_all((settings.REPOSITORY / workload).read_text())
    containers = next(
        part["spec"]["template"]["spec"]["containers"]
        for part in manifests
        if part["kind"] == "Deployment"
    )
    told: list[str] = next(part["args"] for part in containers if part["name"] == name)
    return [argument for argument in told if not argument.startswith(_LEFT_OUT)]


def provisioner(
    directory: pathlib.Path,
    binaries: pathlib.Path,
    driver: str,
    socket: pathlib.Path,
    kubeconfig: pathlib.Path,
) -> processes.Daemon:
    """Describe the csi-provisioner of a driver."""
    command = [
        str((binaries / "csi-provisioner").resolve()),
        *sidecar_arguments("csi-provisioner"),
        f"--csi-address={socket}",
        f"--kubeconfig={kubeconfig}",
    ]
    return daemon(directory, f"provisioner-of-{driver}", command, NAMESPACE="csi-liqo")


def controller(
    directory: pathlib.Path,
    plane: control_plane.ControlPlane,
    socket: pathlib.Path,
    *more: str,
) -> processes.Daemon:
    """Describe our controller for a consumer, with the rights of deploy/."""
    # In a file of its own: the sidecar is the same user, and is not counted.
    kubeconfig = certificates.write_kubeconfig(
        directory / "csi-liqo-controller.kubeconfig",
        plane.kubeconfig_text(CONTROLLER_USER, [*SERVICE_ACCOUNT, COUNTED_GROUP]),
    )
    command = python_program(
        "csi_liqo.cli",
        "controller",
        f"--csi-endpoint=unix://{socket}",
        f"--cluster-id={plane.name}",
        f"--kubeconfig={kubeconfig}",
        "--health-address=127.0.0.1:0",
        "--metrics-address=127.0.0.1:0",
        *more,
    )
    return daemon(directory, "csi-liqo-controller", command)


async def wait_until_ready(program: processes.Daemon, socket: pathlib.Path) -> None:
    """Wait until a driver answers on its socket that it is ready.

    Raises:
        ProcessDiedError: it ended, or was not ready in time.
    """
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _probe(socket):
                program.check()
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        reason = f"was not ready in {START_SECONDS:.0f} s"
        raise errors.ProcessDiedError(program.name, program.log, reason) from None


async def _probe(socket: pathlib.Path) -> bool:
    if not socket.exists():
        return False
    # NB: a channel that failed once waits a second before it tries again.
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = csi_pb2_grpc.IdentityStub(channel)
        try:
            answer = await stub.Probe(csi_pb2.ProbeRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return False
    return answer.ready.value if answer.HasField("ready") else True


async def scrape(plane: control_plane.ControlPlane) -> str:
    """Return the metrics of an API server."""
    connection = await api.load_connection(plane.kubeconfig)
    async with aiohttp.ClientSession() as session:
        url = f"{connection.url}/metrics"
        async with session.get(url, ssl=connection.tls) as response:
            response.raise_for_status()
            return await response.text()
