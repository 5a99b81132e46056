"""The controller is killed before and after each of its writes, and everything converges.

A row is a verb with the writes it is known to make: one more write in the code makes the
first test of this file fail, so that no write goes without its two crashes. After each
crash the claim is bound or gone as was wanted, by exactly one twin, and nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from lab import binaries, control_plane, templates
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import fabric, real_drivers

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

# What reconcilers write when a controller starts is another story than that of a volume.
WRITES: Final = rules.Match(
    is_write=True,
    other_than=frozenset(
        {
            *("leases", "events", "remoteclusters", "nodes", "csinodes", "configmaps"),
            "csistoragecapacities",
        }
    ),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A verb, where its consumer is, and its writes to each cluster's API server."""

    verb: str
    node: str
    storage_class: str
    rome: tuple[str, ...] = ()
    milan: tuple[str, ...] = ()

    @property
    def attaches(self) -> bool:
        return self.verb in ("attach", "detach")

    @property
    def id(self) -> str:
        return f"{self.verb}-{self.storage_class}-on-{self.node}"


CLAIM: Final = "persistentvolumeclaims"
VOLUME: Final = "persistentvolumes"
ATTACHMENT: Final = "volumeattachments"
REAL: Final = "loop.example.com"

ROWS: Final = (
    Row("create", "rome-1", "csi-liqo", rome=(f"POST {CLAIM}", f"PATCH {CLAIM}")),
    Row(
        "create",
        "rome-2",
        "csi-liqo-static",
        rome=(f"POST {CLAIM}", f"PATCH {VOLUME}", f"PATCH {CLAIM}"),
    ),
    Row(
        "create",
        "milan",
        "csi-liqo",
        # What the twin got: on the volume, and on the claim. The note of the attempt, which is
        # of many claims together, has its crashes in test_attempts.
        rome=(f"PATCH {VOLUME}", f"PATCH {CLAIM}"),
        milan=(f"POST {CLAIM}", f"PATCH {CLAIM}"),
    ),
    Row("delete", "rome-1", "csi-liqo", rome=(f"PATCH {CLAIM}", f"DELETE {CLAIM}")),
    Row("delete", "milan", "csi-liqo", milan=(f"PATCH {CLAIM}", f"DELETE {CLAIM}")),
    Row("attach", real_drivers.NODE, f"virtual-{REAL}", rome=(f"POST {ATTACHMENT}",)),
    Row("detach", real_drivers.NODE, f"virtual-{REAL}", rome=(f"DELETE {ATTACHMENT}",)),
)

CRASHES: Final = [
    pytest.param(row, cluster, number, when, id=f"{row.id}-{when.name.lower()}-{cluster}-{number}")
    for row in ROWS
    for cluster in ("rome", "milan")
    for number in range(1, len(getattr(row, cluster)) + 1)
    for when in rules.When
]


@dataclass(frozen=True, slots=True)
class Watched:
    """The running driver, and a proxy before each API server that it speaks to."""

    driver: fabric.Fabric
    rome: proxy.FaultProxy
    milan: proxy.FaultProxy

    async def begin(self, row: Row) -> str:
        """Do all but the last step of a verb; returns the name of the volume, if it has one."""
        if row.storage_class == "csi-liqo-static":
            await self.driver.consumer.create(
                fabric.VOLUMES, templates.local_volume("by-hand", row.node)
            )
        if row.verb == "create":
            return ""
        await self.driver.claim_on("data", row.node, storage_class=row.storage_class)
        volume = await self.made(row)
        if row.verb == "detach":
            await self._attach(volume)
            await self.attached()
        return str(volume["metadata"]["name"])

    async def made(self, row: Row) -> fabric.Json:
        """Wait until a claim is bound and, if it is remote, shows what its twin got."""
        _, volume = await self.driver.bound("data")
        if row.node == "milan":
            await control_planes.wait_until(
                self.driver.consumer, self.driver.claims, "data", _shows_health
            )
        return volume

    async def act(self, row: Row) -> None:
        """Do the last step of a verb, without waiting for what comes of it."""
        match row.verb:
            case "create":
                await self.driver.claim_on("data", row.node, storage_class=row.storage_class)
            case "delete":
                await self.driver.drop("data")
            case "attach":
                _, volume = await self.driver.bound("data")
                await self._attach(volume)
            case "detach":
                await real_drivers.detach_outer(self.driver)

    async def done(self, row: Row, volume: str) -> None:
        """Wait until a verb came to its end."""
        match row.verb:
            case "create":
                await self.made(row)
            case "delete":
                await self.driver.volume_gone(volume)
            case "attach":
                await self.attached()
            case "detach":
                await self.detached()

    async def finish(self, row: Row, volume: str) -> None:
        """See the verb come to its end, and take away what it made."""
        if row.verb == "create":
            made = await self.made(row)
            await self._see_exactly_one_twin(row, made)
            volume = str(made["metadata"]["name"])
            await self.driver.drop("data")
        elif row.attaches:
            await self.done(row, volume)
            await real_drivers.detach_outer(self.driver)
            await self.detached()
            await self.driver.drop("data")
        await self.driver.volume_gone(volume)
        if row.storage_class == "csi-liqo-static":
            await self._take_away_by_hand()

    async def _attach(self, volume: fabric.Json) -> None:
        await real_drivers.attach_outer(self.driver, volume)

    async def attached(self) -> None:
        """Wait until csi-attacher was answered, by exactly one attachment of the real volume."""
        outer = await control_planes.wait_until(
            self.driver.consumer,
            real_drivers.ATTACHMENTS,
            "outer",
            lambda item: bool((item or {}).get("status", {}).get("attached")),
            timeout_seconds=60,
        )
        assert outer is not None
        (inner,) = await real_drivers.inner_attachments(self.driver)
        assert inner["status"]["attached"]
        told = outer["status"]["attachmentMetadata"]
        assert told == inner["status"]["attachmentMetadata"]

    async def detached(self) -> None:
        """Wait until csi-attacher was answered; nothing is attached any more by then."""
        await control_planes.wait_until(
            self.driver.consumer,
            real_drivers.ATTACHMENTS,
            "outer",
            lambda item: item is None,
            timeout_seconds=60,
        )
        assert await real_drivers.inner_attachments(self.driver) == []

    async def _see_exactly_one_twin(self, row: Row, volume: fabric.Json) -> None:
        local = (await self.driver.consumer.get(self.driver.twins))["items"]
        remote = (await self.driver.provider.get(self.driver.remote_claims))["items"]
        twins = [
            f"{twin['metadata']['namespace']}/{twin['metadata']['name']}/{twin['metadata']['uid']}"
            for twin in local + remote
        ]
        assert twins == [volume["spec"]["csi"]["volumeAttributes"]["twin"]]
        assert bool(remote) == (row.node == "milan")

    async def _take_away_by_hand(self) -> None:
        """The administrator kept it (Retain), so the administrator deletes it."""
        path = f"{fabric.VOLUMES}/by-hand"
        kept = await control_planes.wait_until(
            self.driver.consumer,
            fabric.VOLUMES,
            "by-hand",
            lambda item: (item or {}).get("status", {}).get("phase") == "Released",
        )
        assert kept is not None
        await self.driver.consumer.delete(path, uid=kept["metadata"]["uid"])


def _shows_health(claim: fabric.Json | None) -> bool:
    annotations = (claim or {}).get("metadata", {}).get("annotations", {})
    return bool(annotations.get("csi.liqo.io/health") == "Healthy")


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    asyncio.run(binaries.ensure(fabric.BINARIES, real_drivers.PROGRAMS))


@pytest.fixture
async def watched(
    prepared: Planes, tmp_path: Path, namespace: str, row: Row
) -> AsyncIterator[Watched]:
    rome, milan = prepared
    user = f"{fabric.CONTROLLER_USER}-attach" if row.attaches else fabric.CONTROLLER_USER
    rights = rome.kubeconfig_for(user)
    consumer_rights = milan.kubeconfig_for(fabric.CONSUMER_USER)
    async with contextlib.AsyncExitStack() as stack:
        before_rome = await stack.enter_async_context(
            proxy.FaultProxy(rights, tmp_path / "rome-proxy")
        )
        before_milan = await stack.enter_async_context(
            proxy.FaultProxy(consumer_rights, tmp_path / "milan-proxy")
        )
        running = fabric.running(
            *(rome, milan, tmp_path, namespace),
            consumer_kubeconfig=before_rome.kubeconfig,
            provider_kubeconfig=before_milan.kubeconfig.read_text(),
            attach=row.attaches,
        )
        driver = await stack.enter_async_context(running)
        if row.attaches:
            real = real_drivers.running(driver, REAL, attach=True)
            await stack.enter_async_context(real)
            await stack.enter_async_context(real_drivers.virtual_class(driver, REAL))
            await stack.enter_async_context(_attacher(driver, rights))
        yield Watched(driver, before_rome, before_milan)


@contextlib.asynccontextmanager
async def _attacher(driver: fabric.Fabric, rights: Path) -> AsyncIterator[None]:
    """Run the sidecar that calls the driver to attach; like the other one it is kept alive."""
    command = [
        str(fabric.BINARIES / "csi-attacher"),
        f"--csi-address={driver.socket}",
        f"--kubeconfig={rights}",
        "--timeout=20s",
        "--reconcile-sync=5s",
    ]
    process = fabric.Process(command, driver.directory / "csi-attacher.log")
    await process.start()
    supervisor = asyncio.create_task(process.keep_alive())
    try:
        yield
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
        await process.end()


def _told(server: proxy.FaultProxy, since: int) -> tuple[str, ...]:
    return tuple(f"{item.method} {item.target.resource}" for item in server.writes(WRITES)[since:])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_each_verb_makes_just_the_writes_that_are_crashed(watched: Watched, row: Row) -> None:
    before = await watched.driver.snapshot()
    volume = await watched.begin(row)
    rome, milan = len(watched.rome.writes(WRITES)), len(watched.milan.writes(WRITES))

    await watched.act(row)
    await watched.done(row, volume)

    assert _told(watched.rome, rome) == row.rome
    assert _told(watched.milan, milan) == row.milan
    await watched.finish(row, volume)
    assert await watched.driver.settled(before) == []


@pytest.mark.parametrize(("row", "cluster", "number", "when"), CRASHES)
async def test_a_killed_controller_converges_and_leaks_nothing(
    watched: Watched, row: Row, cluster: str, number: int, when: rules.When
) -> None:
    before = await watched.driver.snapshot()
    volume = await watched.begin(row)
    server = watched.rome if cluster == "rome" else watched.milan

    pause = server.pause_at(number, when, WRITES)
    await watched.act(row)
    await pause.wait_until_reached()
    await watched.driver.controller.end()
    pause.drop()
    await watched.driver.controller.start()

    await watched.finish(row, volume)
    assert await watched.driver.settled(before) == []
