"""Real classes of a CSI driver: what is made, described, attached and refused.

The real driver and its sidecars are real programs. No kubelet runs here, so mounting is
tested elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from csi_liqo.model import source
from csi_liqo.rpc.pb import csi_pb2, csi_pb2_grpc
from lab import binaries, control_plane
from lab.faults import proxy, rules
from tests import control_planes
from tests.cluster import calls, fabric, real_drivers

Code = grpc.StatusCode
Planes = tuple[control_plane.ControlPlane, control_plane.ControlPlane]

NODE = real_drivers.NODE
PLAIN = "loop.example.com"
ATTACHING = "attach.loop.example.com"


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    asyncio.run(binaries.ensure(fabric.BINARIES, real_drivers.PROGRAMS))


@pytest.fixture
async def attaching(
    prepared: Planes, tmp_path: pathlib.Path, namespace: str
) -> AsyncIterator[fabric.Fabric]:
    """The driver as deploy/attach installs it."""
    async with fabric.running(*prepared, tmp_path, namespace, attach=True) as running:
        yield running


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


def pins_of(volume: fabric.Json) -> dict[str, list[str]]:
    """Return the one term of a volume's node affinity."""
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    return {rule["key"]: rule["values"] for rule in term["matchExpressions"]}


async def test_a_csi_volume_is_described_with_all_that_its_driver_must_be_told(
    driver: fabric.Fabric,
) -> None:
    before = await driver.snapshot()
    async with (
        real_drivers.running(driver, PLAIN, podInfoOnMount=True) as real,
        real_drivers.virtual_class(driver, real) as virtual,
    ):
        await driver.claim_on("data", NODE, storage_class=virtual)
        _, volume = await driver.bound("data")

        found = source.from_context(volume["spec"]["csi"]["volumeAttributes"])
        assert found.csi is not None
        made = await driver.consumer.get(f"{fabric.VOLUMES}/{found.csi.persistent_volume}")
        assert found.csi.driver == made["spec"]["csi"]["driver"] == real
        assert found.csi.handle == made["spec"]["csi"]["volumeHandle"]
        assert found.csi.attributes == made["spec"]["csi"]["volumeAttributes"]
        assert found.csi.pod_info
        assert not found.csi.attach_required
        assert pins_of(volume) == {fabric.CLUSTER_KEY: ["rome"], f"{real}/node": [NODE]}

        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


async def test_a_driver_that_does_not_run_on_the_node_sends_the_pod_elsewhere(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    async with real_drivers.introduced(driver, PLAIN):
        claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
        code, text, _ = await caller.create(calls.wish(claim, "rome-2", localClass=PLAIN))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "the CSI driver loop.example.com of StorageClass" in text
    assert "does not run on node rome-2" in text


@pytest.mark.parametrize(
    ("attach", "spec", "words"),
    [
        pytest.param(True, {}, "install the overlay deploy/attach", id="attach"),
        pytest.param(
            False,
            {"tokenRequests": [{"audience": "vault"}]},
            "wants service account tokens",
            id="tokens",
        ),
    ],
)
async def test_what_a_real_driver_needs_and_cannot_be_given_is_said_beforehand(
    driver: fabric.Fabric,
    caller: calls.Caller,
    attach: bool,
    spec: dict[str, Any],
    words: str,
) -> None:
    async with real_drivers.introduced(driver, PLAIN, attach=attach, **spec):
        claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
        code, text, _ = await caller.create(calls.wish(claim, NODE, localClass=PLAIN))
    assert code is Code.FAILED_PRECONDITION
    assert words in text


# --- access modes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "volume_mode", "options"),
    [
        pytest.param("ReadWriteOncePod", "Filesystem", [], id="one-pod"),
        pytest.param(
            *("ReadWriteOncePod", "Filesystem", ["--single-node-multi-writer=false"]),
            id="one-pod-of-a-driver-that-knows-no-such-mode",
        ),
        pytest.param("ReadWriteOnce", "Block", [], id="device"),
        pytest.param("ReadOnlyMany", "Filesystem", ["--topology=false"], id="readers"),
        pytest.param("ReadWriteMany", "Block", ["--topology=false"], id="shared-device"),
    ],
)
async def test_a_mode_that_the_real_driver_has_is_had(
    driver: fabric.Fabric, mode: str, volume_mode: str, options: list[str]
) -> None:
    before = await driver.snapshot()
    how = {"accessModes": [mode], "volumeMode": volume_mode}
    async with (
        real_drivers.running(driver, PLAIN, options=options) as real,
        real_drivers.virtual_class(driver, real) as virtual,
    ):
        await driver.claim_on("data", NODE, storage_class=virtual, **how)
        _, volume = await driver.bound("data")

        twin = await driver.consumer.get(f"{driver.twins}/{volume['metadata']['name']}")
        for found in (twin, volume):
            assert {key: found["spec"][key] for key in how} == how
        # What every node reaches is kept in its cluster only.
        everywhere = "--topology=false" in options
        reach = {} if everywhere else {f"{real}/node": [NODE]}
        assert pins_of(volume) == {fabric.CLUSTER_KEY: ["rome"], **reach}
        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


REFUSALS = [
    pytest.param(
        ["ReadOnlyMany"],
        [],
        Code.FAILED_PRECONDITION,
        "access mode MULTI_NODE_READER_ONLY is not supported",
        id="mode",
    ),
    pytest.param(
        ["ReadWriteMany"],
        ["--topology=false"],
        Code.FAILED_PRECONDITION,
        "access mode MULTI_NODE_MULTI_WRITER is not supported",
        id="mode-without-topology",
    ),
    pytest.param(
        ["ReadWriteOnce"],
        ["--capacity-bytes=1048576"],
        Code.RESOURCE_EXHAUSTED,
        NODE,
        id="room",
    ),
    pytest.param(
        ["ReadWriteOnce"],
        ["--capacity-bytes=1048576", "--topology=false"],
        Code.RESOURCE_EXHAUSTED,
        "refuses this: ProvisioningFailed",
        id="room-without-topology",
    ),
]


@pytest.mark.parametrize(("modes", "options", "wanted", "words"), REFUSALS)
async def test_what_the_real_driver_refuses_is_refused_at_once_in_its_words(
    driver: fabric.Fabric,
    caller: calls.Caller,
    modes: list[str],
    options: list[str],
    wanted: grpc.StatusCode,
    words: str,
) -> None:
    async with real_drivers.running(driver, PLAIN, options=options):
        claim = await driver.consumer.create(driver.claims, fabric.claim("data", accessModes=modes))
        code, text, _ = await caller.create(calls.wish(claim, NODE, localClass=PLAIN))
        assert (code, words in text) == (wanted, True), text
        assert (await driver.consumer.get(driver.twins))["items"] == []


async def test_a_refusal_in_another_cluster_is_told_the_same_way(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    async with real_drivers.running_in_provider(driver, PLAIN):
        claim = await driver.consumer.create(
            driver.claims, fabric.claim("data", accessModes=["ReadWriteMany"])
        )
        code, text, _ = await caller.create(calls.wish(claim, "milan", remoteClass=PLAIN))
        assert code is Code.FAILED_PRECONDITION, text
        assert "access mode MULTI_NODE_MULTI_WRITER is not supported" in text
        assert (await driver.provider.get(driver.remote_claims))["items"] == []
        await driver.drop("data")  # as long as it is there it may have a twin


async def test_a_refusal_reaches_the_claim_and_leaves_nothing(driver: fabric.Fabric) -> None:
    async with (
        real_drivers.running(driver, PLAIN) as real,
        real_drivers.virtual_class(driver, real) as virtual,
    ):
        before = await driver.snapshot()
        await driver.claim_on("data", NODE, storage_class=virtual, accessModes=["ReadWriteMany"])
        said = await driver.event("data", "MULTI_NODE_MULTI_WRITER is not supported")
        assert "code = FailedPrecondition desc = real class loop.example.com refuses this" in said
        await driver.drop("data")
        # The controller undoes a new attempt when the sidecar asks for it once more; which it
        # does not when the class is gone by then (external-provisioner library, controller.go).
        assert await driver.settled(before) == []


async def test_a_failure_that_may_heal_is_waited_for(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    async with real_drivers.running(driver, PLAIN) as real:
        fault = {"CreateVolume": {"code": "INTERNAL", "times": 2}}
        (driver.directory / "real" / "state" / "faults.json").write_text(json.dumps(fault))
        claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
        code, text, volume = await caller.create(
            calls.wish(claim, NODE, localClass=real), timeout_seconds=30
        )
        assert (code, text) == (Code.OK, "")
        assert await caller.delete(volume.volume_id) == (Code.OK, "")


# --- secrets --------------------------------------------------------------------------------------


def secret_parameters(namespace: str, *which: str) -> dict[str, str]:
    """The class parameters that name the test's Secret for some calls; "" means all calls."""
    return {
        f"csi.storage.k8s.io/{call}secret-{part}": value
        for call in which
        for part, value in (("name", "loop"), ("namespace", namespace))
    }


async def test_a_node_plugins_secrets_are_named_by_the_virtual_class(
    driver: fabric.Fabric,
) -> None:
    """kubelet reads the names off the virtual volume; all else is the real sidecars' affair."""
    before = await driver.snapshot()
    secret = {"metadata": {"name": "loop"}, "stringData": {"key": "open"}}
    await driver.consumer.create(f"/api/v1/namespaces/{driver.namespace}/secrets", secret)
    async with (
        real_drivers.running(
            driver,
            PLAIN,
            options=["--require-secret=key=open", "--secret-calls=CreateVolume,DeleteVolume"],
            parameters=secret_parameters(driver.namespace, "provisioner-", "node-stage-"),
        ) as real,
    ):
        async with real_drivers.virtual_class(driver, real) as virtual:
            await driver.claim_on("data", NODE, storage_class=virtual)
            said = await driver.event("data", "code = FailedPrecondition")
            assert f"StorageClass {real} passes secrets to its driver" in said
            assert "csi.storage.k8s.io/node-stage-secret-name" in said
            await driver.drop("data")

        given = secret_parameters(driver.namespace, "node-stage-")
        async with real_drivers.virtual_class(driver, real, **given) as virtual:
            await driver.claim_on("data", NODE, storage_class=virtual)
            _, volume = await driver.bound("data")
            reference = {"name": "loop", "namespace": driver.namespace}
            assert volume["spec"]["csi"]["nodeStageSecretRef"] == reference
            assert "open" not in json.dumps(volume)
            await driver.drop("data")
            await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


async def test_a_class_with_one_secret_for_every_call_needs_all_of_a_node_plugins(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    parameters = secret_parameters(driver.namespace, "")
    async with real_drivers.introduced(driver, PLAIN, parameters=parameters):
        claim = await driver.consumer.create(driver.claims, fabric.claim("data"))
        code, text, _ = await caller.create(calls.wish(claim, NODE, localClass=PLAIN))
    assert code is Code.FAILED_PRECONDITION
    for call in ("node-stage", "node-publish", "node-expand"):
        assert f"csi.storage.k8s.io/{call}-secret-name" in text


# --- attaching ------------------------------------------------------------------------------------


async def test_attaching_makes_an_attachment_of_our_own_and_waits_until_it_is_gone(
    attaching: fabric.Fabric,
) -> None:
    driver = attaching
    before = await driver.snapshot()
    async with (
        real_drivers.running(driver, ATTACHING, attach=True) as real,
        real_drivers.virtual_class(driver, real) as virtual,
        grpc.aio.insecure_channel(f"unix:{driver.socket}") as channel,
    ):
        stub = csi_pb2_grpc.ControllerStub(channel)
        await driver.claim_on("data", NODE, storage_class=virtual)
        _, volume = await driver.bound("data")
        await real_drivers.attach_outer(driver, volume)
        publish = real_drivers.publish_request(volume)

        first = await stub.ControllerPublishVolume(publish, timeout=20)
        again = await stub.ControllerPublishVolume(publish, timeout=20)

        assert dict(first.publish_context)
        assert first == again
        (inner,) = await real_drivers.inner_attachments(driver)
        assert inner["spec"]["attacher"] == real
        assert inner["metadata"]["name"].startswith("csi-liqo-")
        assert inner["status"]["attachmentMetadata"] == dict(first.publish_context)

        # kube-controller-manager detaches at each start what it knows and no pod wants.
        await driver.rome.restart_component(control_plane.CONTROLLERS)
        again = await stub.ControllerPublishVolume(publish, timeout=20)
        assert first == again

        unpublish = real_drivers.unpublish_request(volume)
        await stub.ControllerUnpublishVolume(unpublish, timeout=20)
        assert await real_drivers.inner_attachments(driver) == []
        await stub.ControllerUnpublishVolume(unpublish, timeout=20)
        await real_drivers.detach_outer(driver)

        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])
    assert await driver.settled(before) == []


async def test_an_attachment_whose_outer_one_was_removed_by_force_is_collected(
    attaching: fabric.Fabric,
) -> None:
    driver = attaching
    async with (
        real_drivers.running(driver, ATTACHING, attach=True) as real,
        real_drivers.virtual_class(driver, real) as virtual,
        grpc.aio.insecure_channel(f"unix:{driver.socket}") as channel,
    ):
        await driver.claim_on("data", NODE, storage_class=virtual)
        _, volume = await driver.bound("data")
        await real_drivers.attach_outer(driver, volume)
        publish = real_drivers.publish_request(volume)
        await csi_pb2_grpc.ControllerStub(channel).ControllerPublishVolume(publish, timeout=20)
        (inner,) = await real_drivers.inner_attachments(driver)

        await real_drivers.detach_outer(driver)

        await control_planes.wait_until_gone(
            driver.consumer, real_drivers.ATTACHMENTS, inner["metadata"]["name"]
        )
        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"])


async def test_nothing_is_called_detached_while_attachments_cannot_be_seen(
    prepared: Planes, tmp_path: pathlib.Path, namespace: str
) -> None:
    """One that the cache does not show may be there, and the next node's would overlap it."""
    rights = prepared[0].kubeconfig_for(f"{fabric.CONTROLLER_USER}-attach")
    seen = rules.Match(method="GET", resource="volumeattachments")
    async with (
        proxy.FaultProxy(rights, tmp_path / "rome-proxy") as before,
        fabric.running(
            *prepared, tmp_path, namespace, attach=True, consumer_kubeconfig=before.kubeconfig
        ) as driver,
        grpc.aio.insecure_channel(f"unix:{driver.socket}") as channel,
    ):
        stub = csi_pb2_grpc.ControllerStub(channel)
        request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id="pvc-x", node_id=NODE)

        async def answered(wanted: grpc.StatusCode) -> str:
            """Detach again until the answer is as wanted: the driver notices by itself."""
            async with asyncio.timeout(30):
                while True:
                    code, text = Code.OK, ""
                    try:
                        await stub.ControllerUnpublishVolume(request, timeout=5)
                    except grpc.aio.AioRpcError as error:
                        code, text = error.code(), error.details() or ""
                    assert code in (Code.OK, Code.UNAVAILABLE), text
                    if code is wanted:
                        return text

        await answered(Code.OK)
        rule = before.fail(seen, status=503, times=None)
        before.cut_watches(seen)

        assert "nobody can tell how volume pvc-x is attached" in await answered(Code.UNAVAILABLE)

        before.remove(rule)
        await answered(Code.OK)
