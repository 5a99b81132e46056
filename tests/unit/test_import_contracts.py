"""Each import contract holds for the tree, and would fail if somebody broke it.

A contract that cannot fail (a misspelt module, a layer that no longer exists)
guards nothing and says "kept" for ever. So each is broken on purpose, in a copy.
"""

import configparser
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

VIOLATIONS = [
    pytest.param("layers", "csi_liqo/model/ids.py", "import csi_liqo.service", id="upwards"),
    pytest.param("layers", "csi_liqo/kube/api.py", "import csi_liqo.rpc", id="sideways"),
    pytest.param("layers", "csi_liqo/helpers.py", "", id="a-module-without-a-layer"),
    pytest.param("kubernetes", "csi_liqo/service/ports.py", "import kubernetes", id="kubernetes"),
    pytest.param("grpc", "csi_liqo/service/ports.py", "import grpc", id="grpc"),
    pytest.param("processes", "csi_liqo/rpc/new.py", "import subprocess", id="processes"),
    pytest.param("node", "csi_liqo/app/node.py", "import csi_liqo.kube", id="node-to-kube"),
    pytest.param("node", "csi_liqo/app/node.py", "import rich", id="node-to-rich"),
    pytest.param("lab", "lab/new.py", "import csi_liqo.model", id="lab-to-driver"),
    pytest.param("lab", "lab/new.py", "import bench", id="lab-to-bench"),
    pytest.param("driver", "csi_liqo/app/new.py", "import lab", id="driver-to-lab"),
    pytest.param("driver", "csi_liqo/app/new.py", "import bench", id="driver-to-bench"),
]


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a copy of what the contracts speak of."""
    for package in ("csi_liqo", "lab", "bench"):
        ignored = shutil.ignore_patterns("__pycache__", "out")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def lint_imports(tree: pathlib.Path) -> subprocess.CompletedProcess[str]:
    program = pathlib.Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"], cwd=tree, capture_output=True, text=True, check=False
    )


def title(contract: str) -> str:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser[f"importlinter:contract:{contract}"]["name"]


def verdict(output: str, contract: str) -> str:
    """Return KEPT or BROKEN, as the report says of this contract."""
    # The report wraps long lines.
    return " ".join(output.split()).partition(title(contract))[2].split()[0]


def test_the_tree_keeps_every_contract(tree: pathlib.Path) -> None:
    result = lint_imports(tree)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("contract", "path", "line"), VIOLATIONS)
def test_a_violation_breaks_its_contract(
    tree: pathlib.Path, contract: str, path: str, line: str
) -> None:
    with (tree / path).open("a") as module:
        module.write(f"\n{line}\n")

    result = lint_imports(tree)

    assert result.returncode == 1
    assert verdict(result.stdout, contract) == "BROKEN", result.stdout + result.stderr


def test_every_contract_is_broken_by_some_violation() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    contracts = {name.removeprefix(prefix) for name in parser.sections() if prefix in name}

    assert contracts == {violation.values[0] for violation in VIOLATIONS}
