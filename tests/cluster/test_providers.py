"""What a RemoteCluster says when its provider cannot be used, and that it heals."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import yaml

from tests import control_planes
from tests.cluster import calls, expiry, fabric


@pytest.fixture
async def caller(driver: fabric.Fabric) -> AsyncIterator[calls.Caller]:
    made = calls.Caller(driver)
    yield made
    await made.close()


async def wait_for(driver: fabric.Fabric, reason: str, words: str, *, name: str = "milan") -> None:
    """Wait until a RemoteCluster is not ready for a reason, in these words."""

    def says(item: fabric.Json | None) -> bool:
        return any(
            condition["type"] == "Ready"
            and condition["status"] == "False"
            and condition["reason"] == reason
            and words in condition["message"]
            for condition in (item or {}).get("status", {}).get("conditions", [])
        )

    await control_planes.wait_until(driver.consumer, fabric.REMOTE_CLUSTERS, name, says)


async def wait_until_ready(driver: fabric.Fabric) -> None:
    await control_planes.wait_until(
        driver.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready
    )


async def put_kubeconfig(driver: fabric.Fabric, text: str) -> None:
    data = {"kubeconfig": base64.b64encode(text.encode()).decode()}
    await driver.consumer.merge(f"{fabric.SECRETS}/milan", {"data": data})


def kubeconfig_with(driver: fabric.Fabric, **user: object) -> str:
    document = yaml.safe_load(driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    document["users"][0]["user"] = user
    return yaml.safe_dump(document)


@pytest.mark.parametrize(
    ("user", "word"),
    [
        pytest.param({"exec": {"command": "/bin/sh"}}, "exec", id="program"),
        pytest.param({"tokenFile": "/etc/hostname"}, "tokenFile", id="file"),
    ],
)
async def test_a_kubeconfig_may_neither_run_a_program_nor_read_a_file(
    driver: fabric.Fabric, user: dict[str, object], word: str
) -> None:
    await put_kubeconfig(driver, kubeconfig_with(driver, **user))
    await wait_for(driver, "Misconfigured", f"the kubeconfig uses {word}")

    await put_kubeconfig(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    await wait_until_ready(driver)


async def test_a_kubeconfig_that_is_none_is_said_to_be(driver: fabric.Fabric) -> None:
    await put_kubeconfig(driver, "{]")
    await wait_for(driver, "Misconfigured", "the kubeconfig cannot be read")
    await put_kubeconfig(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    await wait_until_ready(driver)


async def test_credentials_that_are_refused_are_said_to_be(driver: fabric.Fabric) -> None:
    await put_kubeconfig(driver, kubeconfig_with(driver, token="wrong"))
    await wait_for(driver, "Unauthorized", "Unauthorized")
    await put_kubeconfig(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    await wait_until_ready(driver)


async def test_two_remote_clusters_of_one_id_belong_to_none(driver: fabric.Fabric) -> None:
    second = fabric.remote_cluster({})
    second["metadata"]["name"] = "milan-again"
    made = await driver.consumer.create(fabric.REMOTE_CLUSTERS, second)
    for name in ("milan", "milan-again"):
        await wait_for(driver, "Conflict", "has clusterID milan too; delete one", name=name)

    path = f"{fabric.REMOTE_CLUSTERS}/milan-again"
    await driver.consumer.delete(path, uid=made["metadata"]["uid"])
    await wait_until_ready(driver)


async def test_another_cluster_at_the_same_address_is_not_spoken_to(
    driver: fabric.Fabric,
) -> None:
    path = f"{fabric.REMOTE_CLUSTERS}/milan/status"
    await driver.controller.end()
    await driver.consumer.merge(path, {"status": {"identity": "of-the-one-before"}})
    await driver.controller.start()
    await wait_for(driver, "IdentityChanged", "another cluster answers for milan")


async def test_a_client_certificate_that_expired_is_said_to_be_refused(
    driver: fabric.Fabric,
) -> None:
    document = yaml.safe_load(driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    user = document["users"][0]["user"]
    good = base64.b64decode(user["client-certificate-data"])
    old = expiry.expired(good, driver.milan.authority.directory)
    user["client-certificate-data"] = base64.b64encode(old).decode()
    await put_kubeconfig(driver, yaml.safe_dump(document))
    await wait_for(driver, "Unauthorized", "the credential has expired or was revoked")

    await put_kubeconfig(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
    await wait_until_ready(driver)


async def test_a_renewed_credential_costs_no_call(
    driver: fabric.Fabric, caller: calls.Caller
) -> None:
    """Calls that wait on the caches go on waiting on the same ones, also across many renewals."""
    waiting = []
    for number in range(3):
        claim = await driver.consumer.create(driver.claims, fabric.claim(f"wait-{number}"))
        # Nobody makes volumes of this class: the call waits for the twin to be bound.
        request = calls.wish(claim, "milan", remoteClass="nobody")
        waiting.append(asyncio.create_task(caller.create(request, timeout_seconds=40)))
    for number in range(3):
        await control_planes.wait_until_there(
            driver.provider, driver.remote_claims, f"wait-{number}"
        )

    quick = []
    for number in range(6):
        # Each is another certificate of the same user.
        await put_kubeconfig(driver, driver.milan.kubeconfig_text(fabric.CONSUMER_USER))
        claim = await driver.consumer.create(driver.claims, fabric.claim(f"quick-{number}"))
        quick.append(asyncio.create_task(caller.create(calls.wish(claim, "milan"))))
        await asyncio.sleep(0.3)  # so that calls meet every moment of a renewal
    for code, text, _ in await asyncio.gather(*quick):
        assert code is grpc.StatusCode.OK, text

    for number in range(3):
        await bind_by_hand(driver, f"wait-{number}")
    for code, text, _ in await asyncio.gather(*waiting):
        assert code is grpc.StatusCode.OK, text
    for name in (*(f"quick-{n}" for n in range(6)), *(f"wait-{n}" for n in range(3))):
        await driver.drop(name)


async def bind_by_hand(driver: fabric.Fabric, name: str) -> None:
    """Do what a provisioner would: give a twin its real volume."""
    twin = await driver.provider.get(f"{driver.remote_claims}/{name}")
    metadata = twin["metadata"]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"by-hand-{metadata['uid']}"},
        "spec": {
            "capacity": {"storage": "64Mi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "nobody",
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": f"/tmp/by-hand-{metadata['uid']}"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": name,
                "uid": metadata["uid"],
            },
        },
    }
    await driver.provider.create(fabric.VOLUMES, volume)


async def test_without_kube_system_the_root_certificate_tells_who_it_is(
    driver: fabric.Fabric,
) -> None:
    binding = "csi-liqo-consumer-identity-rome"
    fabric.kubectl(driver.milan, "delete", "clusterrolebinding", binding)
    status = f"{fabric.REMOTE_CLUSTERS}/milan/status"
    try:
        grant = ("--clusterrole=csi-liqo-consumer-root-ca", f"--user={fabric.CONSUMER_USER}")
        where = ("-n", driver.remote_namespace, "create", "rolebinding", "root-ca")
        fabric.kubectl(driver.milan, *where, *grant)
        await driver.consumer.merge(status, {"status": {"identity": ""}})
        found = await control_planes.wait_until(
            driver.consumer, fabric.REMOTE_CLUSTERS, "milan", identified_by("root-ca:")
        )
        assert found is not None
        known = found["status"]["identity"]

        await driver.controller.end()
        await driver.consumer.merge(status, {"status": {"identity": "root-ca:0123456789abcdef"}})
        await driver.controller.start()
        await wait_for(driver, "IdentityChanged", f"its identity is {known}")
        await driver.consumer.merge(status, {"status": {"identity": ""}})
        await wait_until_ready(driver)
    finally:
        to = ("--clusterrole=csi-liqo-consumer-identity", f"--user={fabric.CONSUMER_USER}")
        fabric.kubectl(driver.milan, "create", "clusterrolebinding", binding, *to)
    # Known by more than before: the uid is better.
    uid = (await driver.provider.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    await control_planes.wait_until(
        driver.consumer, fabric.REMOTE_CLUSTERS, "milan", identified_by(uid)
    )


def identified_by(start: str) -> Callable[[fabric.Json | None], bool]:
    def check(item: fabric.Json | None) -> bool:
        identity: str = (item or {}).get("status", {}).get("identity", "")
        return identity.startswith(start)

    return check


async def test_a_provider_that_cannot_be_told_from_another_is_said_to_be(
    driver: fabric.Fabric,
) -> None:
    binding = "csi-liqo-consumer-identity-rome"
    fabric.kubectl(driver.milan, "delete", "clusterrolebinding", binding)
    try:
        path = f"{fabric.REMOTE_CLUSTERS}/milan/status"
        await driver.consumer.merge(path, {"status": {"identity": ""}})

        def says(item: fabric.Json | None) -> bool:
            conditions = (item or {}).get("status", {}).get("conditions", [])
            return any(
                c["type"] == "Authorized" and "would not be noticed" in c["message"]
                for c in conditions
            )

        await control_planes.wait_until(driver.consumer, fabric.REMOTE_CLUSTERS, "milan", says)
        await wait_until_ready(driver)
    finally:
        to = ("--clusterrole=csi-liqo-consumer-identity", f"--user={fabric.CONSUMER_USER}")
        fabric.kubectl(driver.milan, "create", "clusterrolebinding", binding, *to)
