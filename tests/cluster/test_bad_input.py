"""What cannot be done is refused with the code and the words that help, and leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests import control_planes
from tests.cluster import calls, fabric

Code = grpc.StatusCode


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


async def fresh_claim(driver: fabric.Fabric, name: str = "data", **how: Any) -> fabric.Json:
    """A claim without a consumer: the sidecar leaves it alone, and the test asks for it."""
    return await driver.consumer.create(driver.claims, fabric.claim(name, **how))


async def delete_claim(driver: fabric.Fabric, claim: fabric.Json) -> None:
    name = claim["metadata"]["name"]
    await driver.consumer.delete(f"{driver.claims}/{name}", uid=claim["metadata"]["uid"])
    await control_planes.wait_until_gone(driver.consumer, driver.claims, name)


async def twins_of(driver: fabric.Fabric) -> list[str]:
    """The twins that exist in either cluster."""
    local = (await driver.consumer.get(driver.twins))["items"]
    remote = (await driver.provider.get(driver.remote_claims))["items"]
    return [item["metadata"]["name"] for item in local + remote]


# --- the request ----------------------------------------------------------------------------------


async def test_an_unknown_volume_is_not_found_and_its_deletion_is_done(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    code, text = await caller.validate("pvc-unknown")
    assert (code, text) == (Code.NOT_FOUND, "there is no volume pvc-unknown")
    assert await caller.delete("pvc-unknown") == (Code.OK, "")


async def test_a_capability_the_volume_does_not_have_is_not_confirmed(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    request = calls.wish(await fresh_claim(driver), "rome-1")
    code, _, volume = await caller.create(request)
    assert code is Code.OK

    assert await caller.validate(volume.volume_id) == (Code.OK, "")
    code, text = await caller.validate(volume.volume_id, calls.raw())
    assert code is Code.OK
    assert "has volume mode Filesystem" in text
    assert await caller.delete(volume.volume_id) == (Code.OK, "")


async def test_a_volume_is_not_both_filesystem_and_device(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    request = calls.wish(await fresh_claim(driver), "rome-1")
    request.volume_capabilities.append(calls.raw())
    code, text, _ = await caller.create(request)
    assert code is Code.INVALID_ARGUMENT
    assert "either a filesystem or a block device" in text


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        pytest.param("localclass", "hostpath", "unknown parameters: localclass", id="unknown"),
        pytest.param("localClass", "no/name", "is no class name: 'no/name'", id="malformed"),
    ],
)
async def test_a_malformed_class_parameter_is_named(
    driver: fabric.Fabric, caller: calls.Caller, parameter: str, value: str, words: str
) -> None:
    request = calls.wish(await fresh_claim(driver), "rome-1", **{parameter: value})
    code, text, _ = await caller.create(request)
    assert code is Code.INVALID_ARGUMENT
    assert words in text


# --- the class ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local_class", "words"),
    [
        pytest.param("absent", "StorageClass absent, which parameter localClass", id="absent"),
        pytest.param("csi-liqo", "is virtual itself", id="ours"),
    ],
)
async def test_a_local_class_that_cannot_serve_is_a_precondition(
    driver: fabric.Fabric, caller: calls.Caller, local_class: str, words: str
) -> None:
    request = calls.wish(await fresh_claim(driver), "rome-1", localClass=local_class)
    code, text, _ = await caller.create(request)
    assert code is Code.FAILED_PRECONDITION
    assert words in text
    assert await twins_of(driver) == []


async def test_a_class_that_the_provider_does_not_offer_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    request = calls.wish(await fresh_claim(driver), "milan", remoteClass="static")
    code, text, _ = await caller.create(request)
    assert code is Code.RESOURCE_EXHAUSTED
    assert "does not offer class static (offered: hostpath, hostpath-wffc, nobody)" in text
    assert await twins_of(driver) == []


async def test_no_free_volume_made_by_hand_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    request = calls.wish(await fresh_claim(driver), "rome-1", localClass="static")
    code, text, _ = await caller.create(request)
    assert code is Code.RESOURCE_EXHAUSTED
    assert "no Available volume of class static with node affinity to node rome-1" in text
    assert await twins_of(driver) == []


HOST_PATH = "(provisioner kubernetes.io/host-path) makes"


@pytest.mark.parametrize("node", ["rome-1", "milan"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        pytest.param({"volumeMode": "Block"}, "directories and no block devices", id="device"),
        pytest.param(
            {"accessModes": ["ReadWriteMany"]}, "which cannot be ReadWriteMany", id="writers"
        ),
        pytest.param(
            {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]},
            "which cannot be ReadOnlyMany",
            id="readers-too",
        ),
    ],
)
async def test_what_no_directory_of_a_node_can_be_is_refused_beforehand(
    driver: fabric.Fabric, caller: calls.Caller, node: str, how: dict[str, Any], words: str
) -> None:
    """Its provisioner would give the volume whatever modes are asked for."""
    request = calls.wish(await fresh_claim(driver, **how), node)
    if "volumeMode" in how:
        request.volume_capabilities[0].CopyFrom(calls.raw())
    code, text, _ = await caller.create(request)
    assert code is Code.FAILED_PRECONDITION
    assert HOST_PATH in text
    assert words in text
    assert await twins_of(driver) == []


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_directory_of_a_node_may_be_one_pods(
    driver: fabric.Fabric, caller: calls.Caller, node: str
) -> None:
    """The scheduler sees to ReadWriteOncePod, whatever the volume is."""
    before = await driver.snapshot()
    await driver.claim_on("data", node, accessModes=["ReadWriteOncePod"])
    _, volume = await driver.bound("data")
    assert volume["spec"]["accessModes"] == ["ReadWriteOncePod"]

    shared = calls.mounted()
    shared.access_mode.mode = shared.access_mode.MULTI_NODE_MULTI_WRITER
    code, text = await caller.validate(volume["spec"]["csi"]["volumeHandle"], shared)
    assert (code, text[-16:]) == (Code.OK, "ReadWriteOncePod")
    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


# --- the place ------------------------------------------------------------------------------------


async def test_an_unmapped_namespace_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    claim = fabric.claim("unmapped")
    made = await driver.consumer.create(fabric.claims_in("default"), claim)
    code, text, _ = await caller.create(calls.wish(made, "milan"))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "namespace default is not mapped to one of cluster milan" in text
    assert "spec.namespaceMapping of RemoteCluster milan" in text
    path = f"{fabric.claims_in('default')}/unmapped"
    await driver.consumer.delete(path, uid=made["metadata"]["uid"])


async def test_a_namespace_of_kubernetes_is_never_where_twins_go(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    """The schema cannot see where the same name, or a template, leads to."""
    same = {"spec": {"namespaceMapping": {"default": "SameName"}}}
    await driver.consumer.merge(f"{fabric.REMOTE_CLUSTERS}/milan", same)
    made = await driver.consumer.create(fabric.claims_in("kube-public"), fabric.claim("mine"))

    text = "is not mapped"
    async with asyncio.timeout(20):
        while "is not mapped" in text:  # until the controller has heard of the new mapping
            code, text, _ = await caller.create(calls.wish(made, "milan"))

    assert code is Code.RESOURCE_EXHAUSTED
    assert "namespace kube-public is mapped to kube-public of cluster milan, which belongs" in text
    path = f"{fabric.claims_in('kube-public')}/mine"
    await driver.consumer.delete(path, uid=made["metadata"]["uid"])
    assert (await driver.provider.get(fabric.claims_in("kube-public")))["items"] == []


@pytest.mark.parametrize(
    ("node", "cluster", "words"),
    [
        pytest.param("rome-9", "rome", f"no node has label {fabric.NODE_KEY}=rome-9", id="node"),
        pytest.param("paris", "paris", "no RemoteCluster has clusterID paris", id="cluster"),
    ],
)
async def test_a_place_that_is_gone_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller, node: str, cluster: str, words: str
) -> None:
    request = calls.wish(await fresh_claim(driver), node, cluster=cluster)
    code, text, _ = await caller.create(request)
    assert code is Code.RESOURCE_EXHAUSTED
    assert words in text


async def test_a_strangers_claim_of_that_name_is_never_adopted_nor_touched(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    foreign = fabric.claim("data", storage_class="hostpath")
    theirs = await driver.provider.create(driver.remote_claims, foreign)
    theirs = await driver.provider.get(f"{driver.remote_claims}/data")

    claim = await fresh_claim(driver)
    code, text, _ = await caller.create(calls.wish(claim, "milan"))

    assert code is Code.RESOURCE_EXHAUSTED
    assert f"a claim {driver.remote_namespace}/data that this driver did not make" in text
    await delete_claim(driver, claim)
    after = await driver.provider.get(f"{driver.remote_claims}/data")
    assert after["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert after["metadata"].get("labels") == theirs["metadata"].get("labels")
    assert "deletionTimestamp" not in after["metadata"]
    await driver.provider.delete(f"{driver.remote_claims}/data", uid=after["metadata"]["uid"])


async def test_a_mapped_namespace_that_is_terminating_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    blocker = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "blocker", "finalizers": ["example.com/test"]},
    }
    maps = f"/api/v1/namespaces/{driver.remote_namespace}/configmaps"
    made = await driver.provider.create(maps, blocker)
    place = f"/api/v1/namespaces/{driver.remote_namespace}"
    uid = (await driver.provider.get(place))["metadata"]["uid"]
    await driver.provider.delete(place, uid=uid)

    code, text, _ = await caller.create(calls.wish(await fresh_claim(driver), "milan"))

    assert code is Code.RESOURCE_EXHAUSTED
    assert driver.remote_namespace in text
    assert "terminated" in text or "terminating" in text.lower()
    await driver.provider.merge(f"{maps}/blocker", {"metadata": {"finalizers": None}})
    await control_planes.wait_until_gone(
        driver.provider, "/api/v1/namespaces", driver.remote_namespace
    )
    assert made


async def test_a_missing_mapped_namespace_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    place = f"/api/v1/namespaces/{driver.remote_namespace}"
    uid = (await driver.provider.get(place))["metadata"]["uid"]
    await driver.provider.delete(place, uid=uid)
    await control_planes.wait_until_gone(
        driver.provider, "/api/v1/namespaces", driver.remote_namespace
    )

    code, text, _ = await caller.create(calls.wish(await fresh_claim(driver), "milan"))

    assert code is Code.RESOURCE_EXHAUSTED
    assert driver.remote_namespace in text


# --- twins of the past ----------------------------------------------------------------------------


async def hand_made_twin(
    driver: fabric.Fabric, claim: fabric.Json, *, handed_over: bool, uid: str = "another"
) -> fabric.Json:
    """A twin as an earlier claim of the same name left it in the provider."""
    twin = fabric.claim("data", storage_class="hostpath")
    reference = f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
    annotations = {"csi.liqo.io/claim": reference, "csi.liqo.io/claim-uid": uid}
    if handed_over:
        annotations["csi.liqo.io/handed-over"] = "true"
    twin["metadata"] |= {
        "labels": {"csi.liqo.io/volume": f"pvc-{uid}", "csi.liqo.io/consumer": "rome"},
        "annotations": annotations,
        "finalizers": ["csi.liqo.io/twin"],
    }
    return await driver.provider.create(driver.remote_claims, twin)


async def remove_twin(driver: fabric.Fabric, twin: fabric.Json) -> None:
    path = f"{driver.remote_claims}/data"
    await driver.provider.merge(path, {"metadata": {"finalizers": None}})
    await driver.provider.delete(path, uid=twin["metadata"]["uid"])


async def test_a_retained_twin_keeps_its_name_and_its_data(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    claim = await fresh_claim(driver)
    kept = await hand_made_twin(driver, claim, handed_over=True)

    code, text, _ = await caller.create(calls.wish(claim, "milan"))

    assert code is Code.RESOURCE_EXHAUSTED
    assert "is kept by the retained data of volume pvc-another" in text
    after = await driver.provider.get(f"{driver.remote_claims}/data")
    assert after["metadata"]["uid"] == kept["metadata"]["uid"]
    assert "deletionTimestamp" not in after["metadata"]
    await remove_twin(driver, kept)


async def test_a_leftover_of_an_earlier_claim_makes_way(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    claim = await fresh_claim(driver)
    left = await hand_made_twin(driver, claim, handed_over=False)

    code, text, volume = await caller.create(calls.wish(claim, "milan"))
    while code is Code.ABORTED:  # the binder changed the leftover meanwhile: the sidecar repeats
        code, text, volume = await caller.create(calls.wish(claim, "milan"))

    assert (code, text) == (Code.OK, "")
    after = await driver.provider.get(f"{driver.remote_claims}/data")
    assert after["metadata"]["uid"] != left["metadata"]["uid"]
    assert await caller.delete(volume.volume_id) == (Code.OK, "")


async def test_an_earlier_twin_that_is_going_away_is_waited_for(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    claim = await fresh_claim(driver)
    leaving = await hand_made_twin(driver, claim, handed_over=True)
    path = f"{driver.remote_claims}/data"
    await driver.provider.delete(path, uid=leaving["metadata"]["uid"])

    code, text, _ = await caller.create(calls.wish(claim, "milan"), timeout_seconds=5)
    assert code is Code.DEADLINE_EXCEEDED
    assert "data" in text or "being made" in text

    await driver.provider.merge(path, {"metadata": {"finalizers": None}})
    code, _, volume = await caller.create(calls.wish(claim, "milan"))
    assert code is Code.OK
    assert await caller.delete(volume.volume_id) == (Code.OK, "")


# --- the claim ------------------------------------------------------------------------------------


async def test_a_claim_that_is_gone_gets_no_volume_and_leaves_nothing(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    claim = await fresh_claim(driver)
    await delete_claim(driver, claim)

    code, text, volume = await caller.create(calls.wish(claim, "rome-1"))
    while code is Code.OK:  # the driver had not seen yet that the claim went
        assert await caller.delete(volume.volume_id) == (Code.OK, "")
        code, text, volume = await caller.create(calls.wish(claim, "rome-1"))

    assert code is Code.FAILED_PRECONDITION
    assert f"claim {driver.namespace}/data was deleted" in text
    assert await twins_of(driver) == []


@pytest.mark.parametrize("node", ["rome-1", "milan"])
async def test_a_claim_deleted_midway_and_made_again_gets_its_own_volume(
    driver: fabric.Fabric, caller: calls.Caller, node: str
) -> None:
    """Its predecessor's twin was made, and nobody was ever told of it."""
    before = await driver.snapshot()
    first = await fresh_claim(driver)
    request = calls.wish(first, node, localClass="nobody", remoteClass="nobody")
    code, _, _ = await caller.create(request, timeout_seconds=5)
    assert code is Code.DEADLINE_EXCEEDED
    assert len(await twins_of(driver)) == 1
    await delete_claim(driver, first)

    await driver.claim_on("data", node)
    claim, volume = await driver.bound("data")
    assert volume["metadata"]["name"] == f"pvc-{claim['metadata']['uid']}"
    code, text, _ = await caller.create(request)
    assert code is Code.FAILED_PRECONDITION, text

    await driver.drop("data")
    await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []
