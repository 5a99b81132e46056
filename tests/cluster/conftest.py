"""One consumer and one provider for all tests of this folder; each test has its namespaces."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab import binaries, control_plane, settings
from lab.faults import proxy
from tests import control_planes
from tests.cluster import fabric

Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]
"""The consumer and the provider."""


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Planes]:
    links = settings.DEFAULT_INSTANCE / "bin"
    asyncio.run(binaries.ensure(links, ["etcd", "kubernetes", "provisioner"]))
    arguments = fabric.CONTROL_PLANE_ARGUMENTS
    with (
        control_planes.running(
            "rome", tmp_path_factory.mktemp("rome"), extra_arguments=arguments
        ) as rome,
        control_planes.running(
            "milan", tmp_path_factory.mktemp("milan"), extra_arguments=arguments
        ) as milan,
    ):
        fabric.prepare_consumer(rome)
        fabric.prepare_provider(milan)
        yield rome, milan


@pytest.fixture
async def milan_proxy(prepared: Planes, tmp_path: Path) -> AsyncIterator[proxy.FaultProxy]:
    """The driver's way to the provider, for a test to disturb."""
    rights = prepared[1].kubeconfig_for(fabric.CONSUMER_USER)
    async with proxy.FaultProxy(rights, tmp_path / "milan-proxy") as before:
        yield before


@pytest.fixture
async def rome_proxy(prepared: Planes, tmp_path: Path) -> AsyncIterator[proxy.FaultProxy]:
    """The driver's way to the consumer, for a test to disturb."""
    rights = prepared[0].kubeconfig_for(fabric.CONTROLLER_USER)
    async with proxy.FaultProxy(rights, tmp_path / "rome-proxy") as before:
        yield before


@pytest.fixture
async def at_rome(prepared: Planes, tmp_path: Path) -> AsyncIterator[proxy.FaultProxy]:
    """A person's way to the consumer, for a test to disturb."""
    async with proxy.FaultProxy(prepared[0].kubeconfig, tmp_path / "at-rome") as before:
        yield before


@pytest.fixture(scope="session")
def third(
    prepared: Planes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[control_plane.ControlPlane]:
    """A third cluster, `turin`: another consumer of milan, or another provider of rome."""
    arguments = fabric.CONTROL_PLANE_ARGUMENTS
    directory = tmp_path_factory.mktemp("turin")
    with control_planes.running("turin", directory, extra_arguments=arguments) as turin:
        fabric.prepare_consumer(turin, "turin")
        fabric.prepare_provider(turin)
        fabric.grant_cluster(prepared[1], "turin")
        yield turin


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A namespace named after the test, for a person who reads a log."""
    text = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()
    return f"{text[:36].strip('-')}-{digest[:8]}"


@pytest.fixture
async def driver(
    prepared: Planes,
    tmp_path: Path,
    namespace: str,
) -> AsyncIterator[fabric.Fabric]:
    """The driver as it is deployed, without any fault."""
    async with fabric.running(*prepared, tmp_path, namespace) as running:
        yield running


@pytest.fixture
async def between_proxies(
    prepared: Planes,
    tmp_path: Path,
    namespace: str,
    rome_proxy: proxy.FaultProxy,
    milan_proxy: proxy.FaultProxy,
) -> AsyncIterator[fabric.Fabric]:
    """The driver, with both ways for a test to disturb; what is nobody's is soon collected."""
    async with fabric.running(
        *(*prepared, tmp_path, namespace),
        consumer_kubeconfig=rome_proxy.kubeconfig,
        provider_kubeconfig=milan_proxy.kubeconfig.read_text(),
        orphan_grace_seconds=3,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def both(
    prepared: Planes,
) -> control_plane.ControlPlane:
    """The consumer with both installations side by side; none of them runs."""
    rome = prepared[0]
    fabric.kubectl(rome, "apply", "-k", str(fabric.ROOT / "deploy/attach"))
    return rome
