"""One lab for all tests of this folder."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from lab import api, instance, lifecycle
from tests.e2e.real_drivers.storage_lab import Lab

ROOT: Final = pathlib.Path(__file__).resolve().parents[3]
OFFERED: Final = ("loop-ext4", "loop-xfs", "loop-attach-ext4", "loop-attach-xfs")


@pytest.fixture(scope="package")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[instance.Instance]:
    made = instance.Instance(tmp_path_factory.mktemp("lab"))
    try:
        asyncio.run(lifecycle.up(made, print))
        asyncio.run(lifecycle.add_storage(made, print))
        asyncio.run(install_attaching(made))
        yield made
    finally:
        asyncio.run(lifecycle.down(made, print))


async def install_attaching(owner: instance.Instance) -> None:
    """Have the driver's other mode too, and let the provider offer the loop driver's classes."""
    fabric = _fabric(owner)
    await fabric.consumer.kubectl("apply", "-k", ROOT / "deploy/attach")
    for workload in ("deployment/csi-liqo-controller-attach", "daemonset/csi-liqo-node-attach"):
        status = ("rollout", "status", workload, "--namespace=csi-liqo", "--timeout=120s")
        await fabric.consumer.kubectl(*status)
    offer = ("label", "--overwrite", "storageclass", *OFFERED, "csi.liqo.io/offered=true")
    await fabric.provider.kubectl(*offer)


def _fabric(owner: instance.Instance) -> lifecycle.Fabric:
    octet = owner.recorded_octet
    assert octet is not None
    return lifecycle.describe(owner, octet)


@pytest.fixture
async def lab(owner: instance.Instance) -> AsyncIterator[Lab]:
    fabric = _fabric(owner)
    async with await api.Api.of(fabric.consumer.plane.kubeconfig) as consumer:
        yield Lab(owner, fabric, consumer)
