"""`csi-liqo where`: the home of each claim, for somebody who may read claims and volumes only."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import pty
import signal
import termios
from collections.abc import AsyncIterator

import pytest
import yaml

from tests.cli import conftest
from tests.cluster import fabric

READER = "reader"
COLUMNS = ["namespace", "claim", "state", "home", "node", "twin", "real class", "capacity"]


@pytest.fixture(scope="module")
def reader(planes: conftest.Planes) -> pathlib.Path:
    """Somebody who may read claims and volumes, and nothing else."""
    rome = planes[0]
    kinds = "--resource=persistentvolumes,persistentvolumeclaims"
    fabric.kubectl(rome, "create", "clusterrole", READER, kinds, "--verb=get,list,watch")
    to = (f"--clusterrole={READER}", f"--user={READER}")
    fabric.kubectl(rome, "create", "clusterrolebinding", READER, *to)
    return rome.kubeconfig_for(READER)


async def where(desk: conftest.Desk, kubeconfig: pathlib.Path, *more: str) -> conftest.Done:
    done = await conftest.run("where", "-n", desk.namespace, *more, kubeconfig=kubeconfig)
    assert done.code == 0, done.err
    return done


async def test_each_claim_is_shown_with_its_home_to_whoever_reads_claims_and_volumes(
    driver: fabric.Fabric, desk: conftest.Desk, reader: pathlib.Path
) -> None:
    await driver.claim_on("here", "rome-1")
    await driver.claim_on("there", "milan")
    await driver.consumer.create(driver.claims, fabric.claim("nowhere-yet"))
    _, local = await driver.bound("here")
    _, remote = await driver.bound("there")

    async with asyncio.timeout(30):
        rows: dict[str, dict[str, str]] = {}
        while rows.get("there", {}).get("state") != "Bound":  # facts come back after the binding
            rows = {row["claim"]: row for row in (await where(desk, reader)).rows}

    assert list(rows["here"]) == COLUMNS
    assert rows["here"] == {
        "namespace": driver.namespace,
        "claim": "here",
        "state": "Bound",
        "home": "rome",
        "node": "rome-1",
        "twin": f"csi-liqo-storage/{local['spec']['csi']['volumeHandle']}",
        "real class": "hostpath",
        "capacity": "64Mi",
    }
    assert rows["there"] | {"capacity": ""} == {
        "namespace": driver.namespace,
        "claim": "there",
        "state": "Bound",
        "home": "milan",
        "node": "milan",
        "twin": f"{driver.remote_namespace}/there",
        "real class": "hostpath",
        "capacity": "",
    }
    assert rows["nowhere-yet"]["state"] == "WaitsForPod"
    for form, parse in (("json", json.loads), ("yaml", yaml.safe_load)):
        found = {item["claim"]: item for item in parse((await where(desk, reader, "-o", form)).out)}
        assert found["there"]["home"] == "milan"
        assert found["there"]["volume"] == remote["metadata"]["name"]
        assert found["nowhere-yet"]["home"] is None
    wide = (await where(desk, reader, "-o", "wide")).rows
    assert {row["claim"]: row["modes"] for row in wide}["here"] == "RWO"


async def test_watching_prints_a_line_for_each_change(
    driver: fabric.Fabric, desk: conftest.Desk, reader: pathlib.Path
) -> None:
    await driver.claim_on("first", "rome-1")
    await driver.bound("first")

    async with watching(desk, reader) as lines:
        assert (await anext(lines))[:3] == [driver.namespace, "first", "Bound"]
        await driver.claim_on("second", "rome-2")
        seen = [await anext(lines)]
        while seen[-1][2] != "Bound":
            seen.append(await anext(lines))
        assert {line[1] for line in seen} == {"second"}
        assert seen[0][2] in ("WaitsForPod", "Provisioning")
        await driver.drop("second")
        while seen[-1][2] != "Gone":
            seen.append(await anext(lines))


async def test_watching_on_a_terminal_shows_one_table_that_changes(
    driver: fabric.Fabric, desk: conftest.Desk, reader: pathlib.Path
) -> None:
    await driver.claim_on("first", "rome-1")
    await driver.bound("first")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 200))
    shown = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        protocol = asyncio.StreamReaderProtocol(shown)
        transport, _ = await loop.connect_read_pipe(lambda: protocol, screen)
        process = await asyncio.create_subprocess_exec(
            *(*fabric.PROGRAM, "where", "--watch", "-n", desk.namespace),
            stdout=theirs,
            env={**os.environ, "KUBECONFIG": str(reader), "TERM": "xterm"},
        )
        os.close(theirs)
        try:
            async with asyncio.timeout(40):
                await shown.readuntil(b"REAL CLASS")
                await shown.readuntil(b"first")
                await driver.claim_on("second", "rome-2")
                await shown.readuntil(b"REAL CLASS")
                await shown.readuntil(b"second")
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(20):
                assert await process.wait() in (130, -signal.SIGINT)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            transport.close()


async def test_without_the_right_to_read_volumes_the_error_says_so_in_one_line(
    desk: conftest.Desk,
) -> None:
    nobody = desk.rome.kubeconfig_for("nobody-at-all")

    for more in ((), ("--watch",)):
        done = await conftest.run("where", *more, kubeconfig=nobody)

        assert done.code == 1
        assert done.err.count("\n") == 1
        assert done.err.startswith("csi-liqo: persistentvolume")
        assert "forbidden" in done.err


class watching:  # noqa: N801  # used like a function
    """Run `where --watch`, and give its lines as cells."""

    def __init__(self, desk: conftest.Desk, kubeconfig: pathlib.Path) -> None:
        self._desk = desk
        self._kubeconfig = kubeconfig

    async def __aenter__(self) -> AsyncIterator[list[str]]:
        self._process = await asyncio.create_subprocess_exec(
            *(*fabric.PROGRAM, "where", "--watch", "-n", self._desk.namespace),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
        )
        return self._lines()

    async def _lines(self) -> AsyncIterator[list[str]]:
        assert self._process.stdout is not None
        while True:
            async with asyncio.timeout(40):
                line = await self._process.stdout.readline()
            assert line, "the command ended"
            yield line.decode().split()

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await self._process.wait()
