"""The fault proxy in front of a real API server."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest

from lab import api, control_plane, mirror
from lab.faults import proxy, rules
from tests import control_planes

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

MAPS = "/api/v1/namespaces/default/configmaps"
ONLY_MAPS = rules.Match(resource="configmaps")

# A client that dies where the test wants it to: it creates five objects, one by one.
CLIENT = """
import asyncio, pathlib, sys
from lab import api

async def main() -> None:
    async with await api.Api.of(pathlib.Path(sys.argv[1])) as server:
        for number in range(5):
            body = {"metadata": {"name": f"{sys.argv[2]}-{number}"}}
            await server.create("/api/v1/namespaces/default/configmaps", body)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    without = frozenset({control_plane.CONTROLLERS, control_plane.SCHEDULER})
    directory = tmp_path_factory.mktemp("faults")
    with control_planes.running("faults", directory, without=without) as running:
        yield running


@pytest.fixture
async def faults(
    plane: control_plane.ControlPlane, tmp_path: pathlib.Path
) -> AsyncIterator[proxy.FaultProxy]:
    async with proxy.FaultProxy(plane.kubeconfig, tmp_path) as running:
        yield running


@pytest.fixture
async def direct(plane: control_plane.ControlPlane) -> AsyncIterator[api.Api]:
    async with await api.Api.of(plane.kubeconfig) as server:
        await control_planes.wait_until_there(server, "/api/v1/namespaces", "default")
        yield server


@pytest.fixture
async def client(faults: proxy.FaultProxy) -> AsyncIterator[api.Api]:
    async with await api.Api.of(faults.kubeconfig) as server:
        yield server


def forge(name: str) -> api.Json:
    return {"metadata": {"name": name}, "data": {"key": "value"}}


async def test_without_rules_everything_passes_and_is_recorded(
    faults: proxy.FaultProxy, client: api.Api, direct: api.Api
) -> None:
    await client.create(MAPS, forge("plain"))
    await client.merge(f"{MAPS}/plain", {"data": {"key": "other"}})
    found = await client.get(f"{MAPS}/plain")

    assert found["data"] == {"key": "other"}
    assert found == await direct.get(f"{MAPS}/plain")
    assert [(item.method, item.target.name, item.status) for item in faults.requests] == [
        ("POST", "", 201),
        ("PATCH", "plain", 200),
        ("GET", "plain", 200),
    ]


async def test_a_failure_before_leaves_nothing_and_the_next_try_passes(
    faults: proxy.FaultProxy, client: api.Api, direct: api.Api
) -> None:
    faults.fail(ONLY_MAPS, status=503, reason="ServiceUnavailable")

    with pytest.raises(api.ApiError) as caught:
        await client.create(MAPS, forge("refused"))

    assert (caught.value.status, caught.value.reason) == (503, "ServiceUnavailable")
    assert not faults.requests[0].sent
    assert await direct.find(f"{MAPS}/refused") is None
    await client.create(MAPS, forge("refused"))


async def test_a_failure_after_tells_no_of_what_was_done(
    faults: proxy.FaultProxy, client: api.Api, direct: api.Api
) -> None:
    faults.fail(ONLY_MAPS, when=rules.When.AFTER)

    with pytest.raises(api.ApiError):
        await client.create(MAPS, forge("done"))

    assert await direct.find(f"{MAPS}/done") is not None


@pytest.mark.parametrize(
    ("when", "exists"),
    [
        pytest.param(rules.When.BEFORE, False, id="not-sent"),
        pytest.param(rules.When.AFTER, True, id="answer-lost"),
    ],
)
async def test_a_cut_connection_leaves_the_client_in_doubt(
    faults: proxy.FaultProxy, client: api.Api, direct: api.Api, when: rules.When, exists: bool
) -> None:
    name = f"cut-{when.name.lower()}"
    faults.cut(ONLY_MAPS, when=when)

    with pytest.raises(aiohttp.ClientError):
        await client.create(MAPS, forge(name))

    assert (await direct.find(f"{MAPS}/{name}") is not None) is exists
    assert faults.requests[0].status is None


@pytest.mark.parametrize("when", list(rules.When))
async def test_a_hanging_request_is_never_answered(
    faults: proxy.FaultProxy, client: api.Api, direct: api.Api, when: rules.When
) -> None:
    name = f"hang-{when.name.lower()}"
    faults.hang(ONLY_MAPS, when=when)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await client.create(MAPS, forge(name))

    exists = await direct.find(f"{MAPS}/{name}") is not None
    assert exists is (when is rules.When.AFTER)


async def test_a_delay_holds_a_request_up(faults: proxy.FaultProxy, client: api.Api) -> None:
    faults.delay(ONLY_MAPS, seconds=0.5)
    loop = asyncio.get_running_loop()
    start = loop.time()

    await client.get(MAPS)

    assert loop.time() - start >= 0.5


@pytest.mark.parametrize(
    ("when", "left"),
    [
        pytest.param(rules.When.BEFORE, 2, id="before-the-third-write"),
        pytest.param(rules.When.AFTER, 3, id="after-the-third-write"),
    ],
)
async def test_a_client_killed_at_the_nth_write_left_exactly_that_many(
    faults: proxy.FaultProxy, direct: api.Api, when: rules.When, left: int
) -> None:
    prefix = f"crash-{when.name.lower()}"
    pause = faults.pause_at(3, when)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(faults.kubeconfig), prefix
    )

    held = await pause.wait_until_reached()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    pause.drop()

    assert held.target.resource == "configmaps"
    assert held.sent is (when is rules.When.AFTER)
    names = [item["metadata"]["name"] for item in (await direct.get(MAPS))["items"]]
    assert len([name for name in names if name.startswith(prefix)]) == left
    assert len(faults.writes()) == 3


async def test_a_released_client_goes_on(faults: proxy.FaultProxy, direct: api.Api) -> None:
    pause = faults.pause_at(2, rules.When.BEFORE)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(faults.kubeconfig), "released"
    )
    await pause.wait_until_reached()

    pause.release()

    assert await process.wait() == 0
    assert len(faults.writes()) == 5
    assert await direct.find(f"{MAPS}/released-4") is not None


class Watcher:
    """A mirror through the proxy, and waiting for what it sees."""

    def __init__(self, server: api.Api) -> None:
        self._changed = asyncio.Event()
        self.mirror = mirror.Mirror(server, MAPS, changed=lambda _: self._changed.set())

    async def wait_for(self, name: str, timeout_seconds: float = 10) -> None:
        async with asyncio.timeout(timeout_seconds):
            while mirror.Key("default", name) not in self.mirror.objects:
                await self._changed.wait()
                self._changed.clear()


@pytest.fixture
async def watcher(faults: proxy.FaultProxy, client: api.Api) -> AsyncIterator[Watcher]:
    watching = Watcher(client)
    async with asyncio.timeout(20):
        task = asyncio.create_task(watching.mirror.run())
        await watching.mirror.synced.wait()
    yield watching
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_events_pass_at_once(
    faults: proxy.FaultProxy, watcher: Watcher, direct: api.Api
) -> None:
    await direct.create(MAPS, forge("event"))

    await watcher.wait_for("event")

    assert [item.target.resource for item in faults.watches] == ["configmaps"]


async def test_a_cut_watch_is_begun_again(
    faults: proxy.FaultProxy, watcher: Watcher, direct: api.Api
) -> None:
    await direct.create(MAPS, forge("before-cut"))
    await watcher.wait_for("before-cut")

    assert faults.cut_watches() == 1
    await direct.create(MAPS, forge("after-cut"))

    await watcher.wait_for("after-cut")


async def test_a_silent_watch_stays_open_and_says_nothing_until_it_may(
    faults: proxy.FaultProxy, watcher: Watcher, direct: api.Api
) -> None:
    await direct.create(MAPS, forge("before-silence"))
    await watcher.wait_for("before-silence")
    faults.silence_watches()

    await direct.create(MAPS, forge("silence"))

    with pytest.raises(TimeoutError):
        await watcher.wait_for("silence", timeout_seconds=1)
    assert len(faults.watches) == 1
    faults.end_silence()
    await watcher.wait_for("silence")


async def test_a_server_that_is_down_refuses_and_comes_back(
    faults: proxy.FaultProxy, client: api.Api, watcher: Watcher, direct: api.Api
) -> None:
    await faults.go_down()

    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get(MAPS)
    await faults.come_up()
    await direct.create(MAPS, forge("back"))

    await watcher.wait_for("back")
    await client.get(MAPS)


async def test_nobody_gets_the_owners_rights_without_the_token(
    faults: proxy.FaultProxy, client: api.Api
) -> None:
    stranger = api.Connection(client.connection.url, client.connection.tls, {})
    async with api.Api(stranger) as server:
        with pytest.raises(api.ApiError) as caught:
            await server.get(MAPS)

    assert caught.value.status == 401
    assert not faults.requests[0].sent


async def test_a_client_may_come_as_itself(
    plane: control_plane.ControlPlane, tmp_path: pathlib.Path, direct: api.Api
) -> None:
    account = "/api/v1/namespaces/default/serviceaccounts"
    await direct.create(account, {"metadata": {"name": "jane"}})
    answer = await direct.create(
        f"{account}/jane/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    header = {"Authorization": f"Bearer {answer['status']['token']}"}
    async with proxy.FaultProxy(plane.kubeconfig, tmp_path, pass_authorization=True) as faults:
        owner = await api.load_connection(faults.kubeconfig)
        async with api.Api(api.Connection(owner.url, owner.tls, header)) as server:
            review = await server.create(
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
            )

    assert review["status"]["userInfo"]["username"] == "system:serviceaccount:default:jane"
