"""A person at the command line, in front of real clusters."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import yaml

from lab import api, binaries, control_plane
from tests import control_planes
from tests.cluster import fabric
from tests.cluster.conftest import namespace

__all__ = ["namespace"]

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed as JSON."""
        assert self.out, self.err
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        """What it printed as a table, by column."""
        header, *lines = self.out.splitlines()
        starts = [0, *(i for i in range(2, len(header)) if header[i - 2 : i] == "  " != header[i])]
        starts = [i for i in starts if header[i] != " "]
        ends = [*starts[1:], None]
        titles = [header[a:b].strip().lower() for a, b in zip(starts, ends, strict=True)]
        return [
            {t: line[a:b].strip() for t, a, b in zip(titles, starts, ends, strict=True)}
            for line in lines
        ]


async def run(*arguments: str | pathlib.Path, kubeconfig: pathlib.Path) -> Done:
    """Run csi-liqo as a person would, and return how it ended."""
    process = await asyncio.create_subprocess_exec(
        *fabric.PROGRAM,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "COLUMNS": "200"},
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())


@dataclasses.dataclass
class Desk:
    """Two clusters that know nothing of each other, and a person who may do all in both."""

    rome: control_plane.ControlPlane
    milan: control_plane.ControlPlane
    consumer: api.Api
    provider: api.Api
    namespace: str

    async def __call__(self, *arguments: str | pathlib.Path) -> Done:
        """Run a command in front of rome; it must not end by a defect."""
        done = await run(*arguments, kubeconfig=self.rome.kubeconfig)
        assert "Traceback" not in done.err
        return done

    async def add(self, *more: str, name: str = "milan") -> Done:
        """Introduce milan."""
        kubeconfig = f"--provider-kubeconfig={self.milan.kubeconfig}"
        return await self("peer", "add", name, kubeconfig, "--consumer-id=rome", *more)

    async def kubeconfig_of(self, name: str = "milan") -> str:
        """Return what the Secret of a peer holds."""
        secret = await self.consumer.get(f"{fabric.SECRETS}/peer-{name}")
        return base64.b64decode(secret["data"]["kubeconfig"]).decode()

    async def token_of(self, name: str = "milan") -> str:
        """Return the token in the Secret of a peer."""
        document = yaml.safe_load(await self.kubeconfig_of(name))
        return str(document["users"][0]["user"]["token"])

    async def put_kubeconfig(self, text: str, name: str = "milan") -> None:
        """Put another kubeconfig into the Secret of a peer."""
        data = {"kubeconfig": base64.b64encode(text.encode()).decode()}
        await self.consumer.merge(f"{fabric.SECRETS}/peer-{name}", {"data": data})

    async def put_token(self, token: str, name: str = "milan") -> None:
        """Put another token into the Secret of a peer."""
        document = yaml.safe_load(await self.kubeconfig_of(name))
        document["users"][0]["user"]["token"] = token
        await self.put_kubeconfig(yaml.safe_dump(document), name)


@pytest.fixture(scope="session")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    """A consumer with the driver installed, and a provider that never heard of it."""
    asyncio.run(binaries.ensure(fabric.BINARIES, ["etcd", "kubernetes", "provisioner"]))
    more = fabric.CONTROL_PLANE_ARGUMENTS
    with (
        control_planes.running("rome", tmp_path_factory.mktemp("rome"), extra_arguments=more) as a,
        control_planes.running(
            "milan", tmp_path_factory.mktemp("milan"), extra_arguments=more
        ) as b,
    ):
        fabric.prepare_consumer(a)
        classes = list(fabric.real_classes())
        for real in classes[:3]:
            real["metadata"]["labels"] = {"csi.liqo.io/offered": "true"}
        fabric.kubectl(b, "apply", "-f", "-", text=yaml.safe_dump_all(classes))
        yield a, b


@pytest.fixture
async def desk(planes: Planes, namespace: str) -> AsyncIterator[Desk]:
    rome, milan = planes
    async with (
        await api.Api.of(rome.kubeconfig) as consumer,
        await api.Api.of(milan.kubeconfig) as provider,
    ):
        fabric.kubectl(rome, "create", "namespace", namespace)
        made = Desk(rome, milan, consumer, provider, namespace)
        yield made
        await made(
            *("peer", "remove", "milan", "--forget", "--consumer-id=rome"),
            f"--provider-kubeconfig={milan.kubeconfig}",
        )


@pytest.fixture
async def driver(desk: Desk, tmp_path: pathlib.Path) -> AsyncIterator[fabric.Fabric]:
    """The driver in rome, introduced to milan by the command line."""
    remote = f"rome-{desk.namespace}"
    done = await desk.add(
        f"--namespace={desk.namespace}={remote}",
        "--grant=offered-classes,volumes,events,capacity,repair,teardown",
        "--class=csi-liqo=hostpath",
    )
    assert done.code == 0, done.err
    socket = tmp_path / "csi.sock"
    kubeconfig = desk.rome.kubeconfig_for(fabric.CONTROLLER_USER)
    controller = fabric.Process(
        fabric.controller_command(socket, kubeconfig), tmp_path / "controller.log"
    )
    provisioner = fabric.Process(
        fabric.provisioner_command(socket, kubeconfig),
        tmp_path / "csi-provisioner.log",
        NAMESPACE="csi-liqo",
    )
    running = fabric.Fabric(
        *(desk.rome, desk.milan, desk.consumer, desk.provider, desk.namespace, remote),
        *(tmp_path, controller, provisioner, socket, "csi.liqo.io"),
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(controller.end, signal.SIGTERM)
        stack.push_async_callback(provisioner.end)
        await controller.start()
        await provisioner.start()
        supervisor = asyncio.create_task(provisioner.keep_alive())
        stack.callback(supervisor.cancel)
        try:
            await control_planes.wait_until(
                desk.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready
            )
            yield running
        except BaseException:
            sys.stderr.write(controller.log.read_text()[-6000:])
            raise
        await clear(running)
        await desk(
            *("peer", "remove", "milan", "--forget", "--consumer-id=rome"),
            f"--provider-kubeconfig={desk.milan.kubeconfig}",
        )


async def clear(running: fabric.Fabric) -> None:
    """Delete a test's claims, and wait until their volumes are gone: the next one counts them."""
    everything = ("pods,pvc", "--all", "--force", "--grace-period=0", "--wait=false")
    fabric.kubectl(running.rome, "-n", running.namespace, "delete", *everything)
    for volume in (await running.consumer.get(fabric.VOLUMES))["items"]:
        if volume["spec"]["claimRef"]["namespace"] == running.namespace:
            await running.volume_gone(volume["metadata"]["name"])
