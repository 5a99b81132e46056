"""The command line: what it refuses, with which exit code, and what it does not load."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "csi_liqo.cli", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("role", ["controller", "node"])
def test_each_role_explains_its_options_and_their_variables(role: str) -> None:
    done = run(role, "--help")
    assert done.returncode == 0
    assert "CSI_LIQO_CLUSTER_ID" in done.stdout
    assert "--driver-name" in done.stdout


@pytest.mark.parametrize("role", ["controller", "node"])
def test_a_missing_cluster_id_is_named(role: str) -> None:
    done = run(role)
    assert done.returncode == 2
    assert "--cluster-id" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("node", "--node-name=rome-1"),
        ("controller", "--csi-endpoint=unix:///tmp/csi.sock"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_value_that_cannot_be_meant_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, CSI_LIQO_CLUSTER_ID="Not A Label")
    assert done.returncode == 2
    assert done.stderr.startswith("csi-liqo: cluster id 'Not A Label'")
    assert done.stderr.count("\n") == 1


def test_an_endpoint_that_is_no_unix_socket_is_refused() -> None:
    done = run("node", "--cluster-id=rome", "--node-name=n", "--csi-endpoint=tcp://:1")
    assert done.returncode == 2
    assert "unix socket" in done.stderr


def test_what_stops_a_start_is_told_with_exit_code_one(tmp_path: pathlib.Path) -> None:
    done = run(
        *("node", "--cluster-id=rome", "--node-name=n", f"--kubelet-dir={tmp_path / ('x' * 120)}"),
        *("--health-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"),
    )
    assert done.returncode == 1
    assert "longer than 107 bytes" in done.stderr


def test_the_commands_load_nothing_before_one_runs() -> None:
    code = "import sys, csi_liqo.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"kubernetes", "grpc", "aiohttp", "rich", "yaml"}
    layers = {name.split(".")[1] for name in done.stdout.split() if name.startswith("csi_liqo.")}
    assert layers == {"cli", "model"}


@pytest.mark.parametrize(
    "arguments",
    [("peer", "add"), ("peer", "remove"), ("where",), ("doctor",), ("adopt",)],
    ids=" ".join,
)
def test_each_command_for_people_explains_itself(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--help")
    assert done.returncode == 0
    assert "--kubeconfig" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adopt", "rome", "no-slash"), "'no-slash' is not of the form NAMESPACE/TWIN"),
        (("adopt", "rome", "a/b", "--reclaim-policy=Burn"), "neither Delete nor Retain"),
        (("where", "--orphans", "--watch"), "--orphans and --retained know neither -n nor -w"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_a_command_cannot_mean_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cluster_that_cannot_be_found_is_one_line(tmp_path: pathlib.Path) -> None:
    done = run("where", KUBECONFIG=str(tmp_path / "nothing"), HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"csi-liqo: no kubeconfig at {tmp_path / 'nothing'}")
    assert done.stderr.count("\n") == 1


def test_to_read_its_arguments_the_node_role_loads_nothing_that_takes_long() -> None:
    code = (
        "import os, sys, csi_liqo.cli;"
        "os.execv = lambda *_: sys.exit(' '.join(sys.modules));"
        "sys.argv[1:] = ['node', '--cluster-id=rome', '--node-name=n'];"
        "csi_liqo.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    loaded = set(done.stderr.split())
    assert "csi_liqo.app.lean_node" in loaded
    assert not loaded & {"asyncio", "grpc", "kubernetes", "aiohttp", "rich", "google.protobuf"}
