"""Two consumers of one provider: neither sees, collects, adopts nor deletes the other's twins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from lab import control_plane
from tests import control_planes
from tests.cluster import calls, fabric

Code = grpc.StatusCode
Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]
Pair = tuple[fabric.Fabric, fabric.Fabric]

GRACE_SECONDS = 2.0


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def by_template(remote: fabric.Json) -> None:
    remote["spec"]["namespaceMapping"] = {"template": "${namespace}-${consumer}"}


@pytest.fixture
async def apart(
    prepared: Planes, third: control_plane.ControlPlane, tmp_path: Path, namespace: str
) -> AsyncIterator[Pair]:
    """Rome and turin, each with a namespace of its own in milan for the same one of theirs."""
    async with (
        fabric.running(
            *(*prepared, folder(tmp_path, "rome"), namespace),
            orphan_grace_seconds=GRACE_SECONDS,
            change=by_template,
            remote_namespace=f"{namespace}-rome",
        ) as rome,
        fabric.running(
            *(third, prepared[1], folder(tmp_path, "turin"), namespace),
            orphan_grace_seconds=GRACE_SECONDS,
            change=by_template,
            cluster_id="turin",
            remote_namespace=f"{namespace}-turin",
        ) as turin,
    ):
        yield rome, turin


@pytest.fixture
async def together(
    prepared: Planes, third: control_plane.ControlPlane, tmp_path: Path, namespace: str
) -> AsyncIterator[Pair]:
    """Rome and turin, both mapped to one namespace of milan."""
    shared = f"shared-{namespace}"
    async with (
        fabric.running(
            *(*prepared, folder(tmp_path, "rome"), namespace),
            orphan_grace_seconds=GRACE_SECONDS,
            remote_namespace=shared,
        ) as rome,
        fabric.running(
            *(third, prepared[1], folder(tmp_path, "turin"), namespace),
            orphan_grace_seconds=GRACE_SECONDS,
            cluster_id="turin",
            remote_namespace=shared,
        ) as turin,
    ):
        yield rome, turin


async def twin_of(driver: fabric.Fabric, name: str) -> fabric.Json:
    return await driver.provider.get(f"{driver.remote_claims}/{name}")


def written_by_drivers(twin: fabric.Json) -> fabric.Json:
    """Leave out what Kubernetes itself writes of a claim some time later, as that it is unused.

    Whoever else wrote, and when, is in what is left.
    """
    metadata = {**twin["metadata"], "resourceVersion": ""}
    metadata["managedFields"] = [
        entry
        for entry in metadata["managedFields"]
        if entry["manager"] != "kube-controller-manager"
    ]
    return {"metadata": metadata, "spec": twin["spec"]}


async def test_the_same_names_in_two_consumers_are_two_volumes(apart: Pair) -> None:
    rome, turin = apart
    names = [f"data-{number}" for number in range(3)]
    await asyncio.gather(*(side.claim_on(name, "milan") for side in apart for name in names))
    for side, consumer in ((rome, "rome"), (turin, "turin")):
        for name in names:
            _, volume = await side.bound(name)
            twin = await twin_of(side, name)
            assert twin["metadata"]["labels"]["csi.liqo.io/consumer"] == consumer
            handle = volume["spec"]["csi"]["volumeAttributes"]["twin"]
            assert handle == f"{side.remote_namespace}/{name}/{twin['metadata']['uid']}"

    kept = {name: (await twin_of(turin, name))["metadata"]["uid"] for name in names}
    for name in names:
        _, volume = await rome.bound(name)
        await rome.drop(name)
        await rome.volume_gone(volume["metadata"]["name"])
        assert await rome.provider.find(f"{rome.remote_claims}/{name}") is None
    for name, uid in kept.items():
        twin = await twin_of(turin, name)
        assert twin["metadata"]["uid"] == uid
        assert "deletionTimestamp" not in twin["metadata"]
        await turin.drop(name)


async def test_in_one_namespace_the_first_has_the_name_and_the_second_is_told(
    together: Pair,
) -> None:
    rome, turin = together
    await rome.claim_on("data", "milan")
    await rome.bound("data")
    before = await twin_of(rome, "data")

    await turin.claim_on("data", "milan")
    message = await turin.event("data", "did not make for cluster turin exists in cluster milan")
    assert f"{turin.remote_namespace}/data" in message
    assert "rename" in message
    await turin.release("data")
    await turin.consume("data", "turin-1")  # it may go elsewhere
    await turin.bound("data")

    # What turin does with its own claim of that name is nothing to rome's twin.
    await turin.drop("data")
    after = await twin_of(rome, "data")
    assert written_by_drivers(after) == written_by_drivers(before)
    await rome.drop("data")


async def test_neither_collects_what_the_other_has_not_handed_over(together: Pair) -> None:
    """A twin that is nobody's yet looks like an orphan to whoever takes it for its own."""
    rome, turin = together
    caller = calls.Caller(rome)
    claim = await rome.consumer.create(rome.claims, fabric.claim("data"))
    code, _, _ = await caller.create(
        calls.wish(claim, "milan", remoteClass="nobody"), timeout_seconds=4
    )
    assert code is Code.DEADLINE_EXCEEDED
    twin = await twin_of(rome, "data")
    assert "csi.liqo.io/handed-over" not in twin["metadata"]["annotations"]

    await turin.controller.end()
    await turin.controller.start()
    await turin.claim_on("other", "milan")
    await turin.bound("other")  # turin's caches are in sync, and its grace time is over
    await asyncio.sleep(GRACE_SECONDS * 2)  # that nothing happens has no event
    assert (await twin_of(rome, "data"))["metadata"]["uid"] == twin["metadata"]["uid"]

    await rome.drop("data")
    await control_planes.wait_until_gone(rome.provider, rome.remote_claims, "data")
    await turin.drop("other")
    await caller.close()


async def test_neither_lists_nor_adopts_what_the_other_left(together: Pair) -> None:
    rome, turin = together
    caller = calls.Caller(rome)
    claim = await rome.consumer.create(rome.claims, fabric.claim("data"))
    code, _, _ = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.OK
    await rome.drop("data")  # and nobody made a volume of the answer: it is abandoned
    twin = f"{rome.remote_namespace}/data"

    def of_this_test(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
        return [(row["twin"], row["state"]) for row in rows if row["twin"] == twin]

    assert of_this_test(await fabric.orphans(rome.rome, "rome", "--retained")) == [
        (twin, "abandoned")
    ]
    assert of_this_test(await fabric.orphans(turin.rome, "turin", "--retained")) == []
    adopt = ("adopt", "milan", twin, "--consumer-id=turin")
    exit_code, _, complaint = await fabric.program(turin.rome, *adopt)
    assert exit_code != 0
    assert f"claim {twin} in cluster milan is no twin of cluster turin" in complaint

    found = await twin_of(rome, "data")
    assert "deletionTimestamp" not in found["metadata"]
    volume_id = found["metadata"]["labels"]["csi.liqo.io/volume"]
    assert await caller.delete(volume_id) == (Code.OK, "")
    await caller.close()


async def test_a_name_that_the_other_left_is_free(together: Pair) -> None:
    rome, turin = together
    await rome.claim_on("data", "milan")
    _, volume = await rome.bound("data")
    await turin.claim_on("data", "milan")
    await turin.event("data", "did not make for cluster turin")

    await rome.drop("data")
    await rome.volume_gone(volume["metadata"]["name"])
    await turin.bound("data", timeout_seconds=90)
    twin = await twin_of(turin, "data")
    assert twin["metadata"]["labels"]["csi.liqo.io/consumer"] == "turin"
    await turin.drop("data")
