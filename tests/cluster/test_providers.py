"""What a RemoteCluster says when its provider cannot be used, and that it heals."""

from __future__ import annotations

import base64

import pytest
import yaml

from tests import control_planes
from tests.cluster import fabric


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
    await wait_for(driver, "Misconfigured", "another cluster answers for milan")
