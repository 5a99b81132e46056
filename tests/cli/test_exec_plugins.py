"""Programs that a provider's kubeconfig may start: none but those the installation names."""

from __future__ import annotations

import json
import pathlib

import pytest
import yaml

from csi_liqo.kube import api
from csi_liqo.model import errors
from tests.cli import conftest

VERSION = "client.authentication.k8s.io/v1"


def forge_plugin(directory: pathlib.Path, token: str) -> pathlib.Path:
    """Return a program that tells a token, and leaves a trace of having run."""
    credential = {"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": token}}
    plugin = directory / "plugin"
    plugin.write_text(f"#!/bin/sh\ntouch {directory}/ran\necho '{json.dumps(credential)}'\n")
    plugin.chmod(0o755)
    return plugin


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
