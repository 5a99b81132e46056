"""`csi-liqo where`: the home of each claim, for somebody who may read claims and volumes only."""

from __future__ import annotations

import asyncio
import contextlib
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
    async with on_a_terminal(desk, reader) as screen:
        await screen.shows("first")
        await driver.claim_on("second", "rome-2")
        await screen.shows("first", "second")
        assert await screen.interrupt() in (130, -signal.SIGINT)
    await driver.bound("second")  # what is half made would outlive the driver


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


class Screen:
    """A terminal of 200 columns on which `where --watch` runs."""

    def __init__(self, shown: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        self._shown = shown
        self._process = process
        self._text = b""

    async def shows(self, *names: str) -> None:
        """Wait until the table that was drawn last has all these; a draw may come in pieces."""
        wanted = [name.encode() for name in names]
        try:
            async with asyncio.timeout(60):
                while not all(name in self._table for name in wanted):
                    piece = await self._shown.read(4096)
                    assert piece, self._told
                    self._text += piece
        except (TimeoutError, OSError) as error:  # it hangs; or it ended, and its terminal with it
            raise AssertionError(self._told) from error

    async def interrupt(self) -> int:
        """Do what Ctrl-C does; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            return await self._process.wait()

    @property
    def _table(self) -> bytes:
        _, header, rows = self._text.rpartition(b"REAL CLASS")
        return rows if header else b""

    @property
    def _told(self) -> str:
        return f"exit code {self._process.returncode}, on the screen: {self._text.decode()}"


@contextlib.asynccontextmanager
async def on_a_terminal(desk: conftest.Desk, kubeconfig: pathlib.Path) -> AsyncIterator[Screen]:
    """Run `where --watch` on a terminal of its own, whatever this one is."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 200))
    shown = asyncio.StreamReader()
    environment = {key: os.environ[key] for key in os.environ.keys() - {"COLUMNS", "LINES"}}
    with os.fdopen(ours, "rb", buffering=0) as end:
        protocol = asyncio.StreamReaderProtocol(shown)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: protocol, end)
        process = await asyncio.create_subprocess_exec(
            # A shell's background job ignores SIGINT, and so would all that it starts.
            *("env", "--default-signal=INT"),
            *(*fabric.PROGRAM, "where", "--watch", "-n", desk.namespace),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "KUBECONFIG": str(kubeconfig), "TERM": "xterm"},
        )
        os.close(theirs)
        try:
            yield Screen(shown, process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            transport.close()
