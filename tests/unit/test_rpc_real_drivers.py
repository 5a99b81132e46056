"""Finding the real drivers' sockets by asking, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest

from csi_liqo.host import plugin_sockets
from csi_liqo.model import errors
from csi_liqo.rpc import connections, real_drivers
from csi_liqo.rpc.pb import pluginregistration_pb2, pluginregistration_pb2_grpc


@pytest.fixture
def kubelet() -> Iterator[pathlib.Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="kubelet-") as made:
        (pathlib.Path(made) / "plugins_registry").mkdir()
        yield pathlib.Path(made)


@pytest.fixture
async def drivers(kubelet: pathlib.Path) -> AsyncIterator[real_drivers.RealDrivers]:
    sockets = plugin_sockets.PluginSockets(kubelet)
    made = real_drivers.RealDrivers(sockets, node_name="rome-1")
    async with contextlib.aclosing(made):
        yield made


class Registering(pluginregistration_pb2_grpc.RegistrationServicer):
    """A driver that says what the test wants, and counts how often it is asked."""

    def __init__(self, name: str, endpoint: str, kind: str = "CSIPlugin") -> None:
        self.info = pluginregistration_pb2.PluginInfo(type=kind, name=name, endpoint=endpoint)
        self.asked = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def GetInfo(  # noqa: N802
        self, request: pluginregistration_pb2.InfoRequest, context: object
    ) -> pluginregistration_pb2.PluginInfo:
        self.asked += 1
        await self.go_on.wait()
        return self.info


@contextlib.asynccontextmanager
async def serving(path: pathlib.Path, *registering: Registering) -> AsyncIterator[None]:
    """Serve on a socket: a registration, or nothing but an open door."""
    path.parent.mkdir(parents=True, exist_ok=True)
    server = grpc.aio.server()
    for one in registering:
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(one, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
        path.unlink(missing_ok=True)


async def reached(drivers: real_drivers.RealDrivers, name: str = "real") -> bool:
    async with drivers.connected(name) as connection:
        return isinstance(connection, connections.Connection)


@contextlib.contextmanager
def absent(reason: str) -> Iterator[None]:
    with pytest.raises(errors.OutcomeUnknownError, match=reason) as caught:
        yield
    assert "real driver real on node rome-1" in str(caught.value)
    assert "registered with kubelet" in str(caught.value)


async def test_a_driver_is_found_by_its_name_and_asked_once(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    own = kubelet / "plugins/real/csi.sock"
    real = Registering("real", str(own))
    other = Registering("other", str(kubelet / "plugins/other/csi.sock"))
    async with (
        serving(kubelet / "plugins_registry/real-reg.sock", real),
        serving(kubelet / "plugins_registry/deeper/other-reg.sock", other),
        serving(own),
    ):
        assert await asyncio.gather(*(reached(drivers) for _ in range(5))) == [True] * 5
        assert (real.asked, other.asked) == (1, 1)


async def test_an_empty_endpoint_is_the_registration_socket(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    async with serving(kubelet / "plugins_registry/x.sock", Registering("real", "")):
        assert await reached(drivers)


async def test_a_driver_that_moved_or_came_back_is_found_again(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    registration = kubelet / "plugins_registry/real-reg.sock"
    for place in ("one", "two", "two"):
        own = kubelet / place / "csi.sock"
        async with serving(registration, Registering("real", str(own))), serving(own):
            assert await reached(drivers)
        with absent("is not registered"):
            await reached(drivers)


async def test_dead_silent_and_other_plugins_do_not_stand_in_the_way(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    registry = kubelet / "plugins_registry"
    own = kubelet / "csi.sock"
    silent = Registering("silent", "")
    silent.go_on.clear()
    (registry / "no-socket").write_text("x")
    async with serving(registry / "dead.sock"):
        os.link(registry / "dead.sock", registry / "kept.sock")
    async with (
        serving(registry / "silent.sock", silent),
        serving(registry / "mute.sock"),
        serving(registry / "device.sock", Registering("real", "/dev/x", "DevicePlugin")),
        serving(registry / ".hidden.sock", Registering("real", "/hidden")),
        serving(registry / "real.sock", Registering("real", str(own))),
        serving(own),
    ):
        assert await reached(drivers)
        silent.go_on.set()


async def test_of_two_with_one_name_the_newest_counts(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    registry = kubelet / "plugins_registry"
    own = kubelet / "csi.sock"
    async with (
        serving(registry / "z-older.sock", Registering("real", str(kubelet / "gone.sock"))),
        serving(registry / "a-newer.sock", Registering("real", str(own))),
        serving(own),
    ):
        os.utime(registry / "z-older.sock", (1, 1))
        assert await reached(drivers)


async def test_a_socket_nobody_listens_on_is_told(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    own = kubelet / "csi.sock"
    async with serving(own):
        os.link(own, kubelet / "kept.sock")
    told = Registering("real", str(kubelet / "kept.sock"))
    async with serving(kubelet / "plugins_registry/real.sock", told):
        with absent("nobody answers on its socket"):
            await reached(drivers)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("/run/elsewhere.sock", "is not below"),
        ("plugins/relative.sock", "is not below"),
        ("{kubelet}/../outside.sock", "its socket"),
        ("{kubelet}/link/outside.sock", "its socket"),
        ("{kubelet}/file", "is no socket"),
        ("{kubelet}/missing", "No such file"),
    ],
)
async def test_an_endpoint_that_leads_elsewhere_is_not_used(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers, endpoint: str, reason: str
) -> None:
    (kubelet / "file").write_text("x")
    (kubelet / "link").symlink_to(kubelet.parent)
    told = Registering("real", endpoint.format(kubelet=kubelet))
    async with serving(kubelet / "plugins_registry/real.sock", told):
        with absent(reason):
            await reached(drivers)


async def test_a_link_that_stays_inside_is_followed(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    (kubelet / "link").symlink_to("plugins")
    told = Registering("real", str(kubelet / "link/csi.sock"))
    async with (
        serving(kubelet / "plugins_registry/real.sock", told),
        serving(kubelet / "plugins/csi.sock"),
    ):
        assert await reached(drivers)


def open_sockets() -> int:
    """Return how many sockets this process has, the servers' of a test among them."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


async def until_sockets_are_at_most(count: int) -> None:
    end = time.monotonic() + 10
    while open_sockets() > count:
        assert time.monotonic() < end, f"{open_sockets()} sockets are open, not {count}"
        await asyncio.sleep(0.01)


async def test_a_connection_is_used_again_and_closed_at_the_end(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    async with serving(kubelet / "plugins_registry/real.sock", Registering("real", "")):
        await reached(drivers)
        async with drivers.connected("real") as first, drivers.connected("real") as second:
            assert second is first
        count = open_sockets()
        await drivers.aclose()
        await until_sockets_are_at_most(count - 2)  # both ends


async def test_a_connection_that_is_replaced_stays_until_its_last_call_has_ended(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers
) -> None:
    path = kubelet / "plugins_registry/real.sock"
    old, new = Registering("real", ""), Registering("real", "")
    async with serving(path, old):
        async with drivers.connected("real") as first:
            path.rename(kubelet / "elsewhere.sock")
            async with serving(path, new), drivers.connected("real") as second:
                assert second is not first
                with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):  # an answer
                    await first.abilities(timeout=5)
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                await first.abilities(timeout=5)
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            await first.abilities(timeout=5)


@pytest.mark.parametrize("others", [1, 8])
async def test_calls_that_are_given_up_while_they_connect_leave_nothing_open(
    kubelet: pathlib.Path, drivers: real_drivers.RealDrivers, others: int
) -> None:
    async with serving(kubelet / "plugins_registry/real.sock", Registering("real", "")):
        await reached(drivers)
        count = open_sockets()
        for turns in range(40):
            await drivers.forget("real")
            calls = [asyncio.create_task(reached(drivers)) for _ in range(others)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await reached(drivers)
        # gRPC ends the latest attempt that was given up, both ends of it, with the next one.
        await until_sockets_are_at_most(count + 2)
