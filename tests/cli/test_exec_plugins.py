"""Programs that a provider's kubeconfig may start: none but those the installation names."""

from __future__ import annotations

import copy
import datetime
import json
import pathlib
import signal

import pytest
import yaml

from csi_liqo.kube import api, kubeconfigs
from csi_liqo.model import errors
from tests import control_planes
from tests.cli import conftest, test_peer
from tests.cluster import fabric

VERSION = "client.authentication.k8s.io/v1"


def forge_plugin(directory: pathlib.Path, token: str) -> pathlib.Path:
    """Return a program that tells a token, and leaves a trace of having run."""
    tell(directory, token)
    plugin = directory / "plugin"
    plugin.write_text(f"#!/bin/sh\ntouch {directory}/ran\ncat {directory}/told\n")
    plugin.chmod(0o755)
    return plugin


def tell(directory: pathlib.Path, token: str, **more: str) -> None:
    """Have the program tell another token from now on."""
    status = {"token": token, **more}
    credential = {"apiVersion": VERSION, "kind": "ExecCredential", "status": status}
    fresh = directory / "told.new"
    fresh.write_text(json.dumps(credential))
    fresh.replace(directory / "told")


async def test_an_allowed_program_tells_the_token(
    desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    await desk.add("--namespace=plugged")
    plugin = forge_plugin(tmp_path, await desk.token_of())
    text = kubeconfig_with(await desk.kubeconfig_of(), plugin)

    async with await api.Api.from_kubeconfig_text(text, [str(plugin)]) as server:
        await server.request("GET", "/api/v1/namespaces/plugged/persistentvolumeclaims")


@pytest.mark.parametrize(
    ("allowed", "more"),
    [
        pytest.param([], {}, id="none-is-allowed"),
        pytest.param(["plugin", "/bin/plugin"], {}, id="another-is-allowed"),
        pytest.param(None, {"env": [{"name": "LD_PRELOAD", "value": "x"}]}, id="with-environment"),
    ],
)
async def test_any_other_program_is_refused_and_not_run(
    desk: conftest.Desk, tmp_path: pathlib.Path, allowed: list[str] | None, more: dict[str, object]
) -> None:
    await desk.add("--namespace=plugged")
    plugin = forge_plugin(tmp_path, "token")
    text = kubeconfig_with(await desk.kubeconfig_of(), plugin, **more)

    with pytest.raises(errors.PreconditionError, match="the kubeconfig uses exec"):
        await api.Api.from_kubeconfig_text(text, [str(plugin)] if allowed is None else allowed)

    assert not (tmp_path / "ran").exists()


async def test_the_commands_start_what_they_are_allowed_to_and_nothing_else(
    desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    await desk.add("--namespace=plugged")
    plugin = forge_plugin(tmp_path, await desk.token_of())
    await desk.put_kubeconfig(kubeconfig_with(await desk.kubeconfig_of(), plugin))
    doctor = ("doctor", "--consumer-id=rome", "-o", "json")
    where = ("where", "--retained", "--consumer-id=rome")
    allowed = f"--allowed-exec-plugins={plugin}"

    refused = (await desk(*doctor)).document
    unlisted = await desk(*where)

    said = [item for item in refused if "the kubeconfig uses exec" in item["finding"]]
    assert [item["level"] for item in said] == ["error"]
    assert "out of sight: cluster milan (the kubeconfig uses exec" in unlisted.err
    assert not (tmp_path / "ran").exists()

    found = (await desk(*doctor, allowed)).document
    listed = await desk(*where, allowed)

    assert not [item for item in found if "uses exec" in item["finding"]]
    assert any("RemoteCluster milan does not grant events" in i["finding"] for i in found)
    assert "out of sight" not in listed.err
    assert (tmp_path / "ran").exists()


async def test_what_the_controller_alone_may_start_is_no_error(
    desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    await desk.add("--namespace=plugged")
    plugin = forge_plugin(tmp_path, "token")
    await desk.put_kubeconfig(kubeconfig_with(await desk.kubeconfig_of(), plugin))
    path = "/apis/apps/v1/namespaces/csi-liqo/deployments/csi-liqo-controller"
    before = (await desk.consumer.get(path))["spec"]["template"]["spec"]["containers"]
    for container in (after := copy.deepcopy(before)):
        if container["args"][0] == "controller":
            container["args"].append(f"--allowed-exec-plugins={plugin}")
    await desk.consumer.merge(path, deployment_of(after))

    try:
        found = (await desk("doctor", "--consumer-id=rome", "-o", "json")).document
    finally:
        await desk.consumer.merge(path, deployment_of(before))

    [said] = [item for item in found if f"starts {plugin}" in item["finding"]]
    assert (said["level"], said["check"]) == ("unseen", "permissions")
    assert f"--allowed-exec-plugins={plugin}" in said["remedy"]
    assert not (tmp_path / "ran").exists()


def deployment_of(containers: list[fabric.Json]) -> fabric.Json:
    return {"spec": {"template": {"spec": {"containers": containers}}}}


async def test_the_controller_speaks_to_a_provider_with_what_an_allowed_program_tells(
    driver: fabric.Fabric, desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    token = await desk.token_of()
    plugin = forge_plugin(tmp_path, token)
    await desk.put_kubeconfig(kubeconfig_with(await desk.kubeconfig_of(), plugin))
    await control_planes.wait_until(desk.consumer, fabric.REMOTE_CLUSTERS, "milan", refuses_exec)
    assert not (tmp_path / "ran").exists()
    await driver.controller.end(signal.SIGTERM)
    kubeconfig = desk.rome.kubeconfig_for(fabric.CONTROLLER_USER)
    option = f"--allowed-exec-plugins={plugin}"
    command = fabric.controller_command(driver.socket, kubeconfig, option)
    allowing = fabric.Process(command, tmp_path / "allowing.log")
    await allowing.start()
    try:
        await control_planes.wait_until(
            desk.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready
        )
        await driver.claim_on("data", "milan")
        _, volume = await driver.bound("data")

        # It has no end that it says, so its refusal is what has the program asked again.
        account = ("-n", "csi-liqo-consumers")
        fresh = fabric.kubectl(desk.milan, *account, "create", "token", "rome").strip()
        tell(tmp_path, fresh)
        selector = "--selector=csi.liqo.io/token-of=rome"
        fabric.kubectl(desk.milan, *account, "delete", "secrets", selector)
        await test_peer.wait_until_refused(desk, token)
        await driver.drop("data")
        await driver.volume_gone(volume["metadata"]["name"], timeout_seconds=60)
    finally:
        await allowing.end(signal.SIGTERM)
        await driver.controller.start()
    log = allowing.log.read_text()
    assert token.rpartition(".")[2] not in log
    assert fresh.rpartition(".")[2] not in log


async def test_a_program_that_tells_nothing_is_named(
    desk: conftest.Desk, tmp_path: pathlib.Path
) -> None:
    await desk.add("--namespace=plugged")
    plugin = forge_plugin(tmp_path, "token")
    plugin.write_text("#!/bin/sh\nexit 3\n")
    text = kubeconfig_with(await desk.kubeconfig_of(), plugin)

    with pytest.raises(errors.PreconditionError, match="plugin, which the kubeconfig names, told"):
        await api.Api.from_kubeconfig_text(text, [str(plugin)])


async def test_a_program_is_asked_again_before_its_token_ends(
    desk: conftest.Desk, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeconfigs, "AGAIN_SECONDS", 0)
    await desk.add("--namespace=plugged")
    claims = "/api/v1/namespaces/plugged/persistentvolumeclaims"
    token = await desk.token_of()
    plugin = forge_plugin(tmp_path, token)
    text = kubeconfig_with(await desk.kubeconfig_of(), plugin)
    for seconds, again in ((3600, False), (30, True)):
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        tell(tmp_path, token, expirationTimestamp=ends.strftime("%Y-%m-%dT%H:%M:%SZ"))
        async with await api.Api.from_kubeconfig_text(text, [str(plugin)]) as server:
            (tmp_path / "ran").unlink()
            await server.request("GET", claims)
            assert (tmp_path / "ran").exists() is again


def refuses_exec(remote: fabric.Json | None) -> bool:
    conditions = (remote or {}).get("status", {}).get("conditions", [])
    return any("the kubeconfig uses exec" in item["message"] for item in conditions)


def kubeconfig_with(text: str, plugin: pathlib.Path, **more: object) -> str:
    document = yaml.safe_load(text)
    document["users"][0]["user"] = {
        "exec": {
            "apiVersion": VERSION,
            "command": str(plugin),
            "interactiveMode": "Never",
            **more,
        }
    }
    return yaml.safe_dump(document)
