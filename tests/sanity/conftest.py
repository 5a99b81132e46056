"""The consumer cluster that the driver under csi-sanity stands on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from lab import binaries, control_plane, settings
from tests import control_planes
from tests.cluster import fabric


@pytest.fixture(scope="session")
def rome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    links = settings.DEFAULT_INSTANCE / "bin"
    sets = ["etcd", "kubernetes", "provisioner", "sanity", *settings.STORAGE_PIN_SETS]
    asyncio.run(binaries.ensure(links, sets))
    with control_planes.running(
        "rome",
        tmp_path_factory.mktemp("rome"),
        extra_arguments=fabric.CONTROL_PLANE_ARGUMENTS,
    ) as plane:
        fabric.prepare_consumer(plane)
        yield plane
