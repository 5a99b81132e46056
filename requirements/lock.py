"""Pin every Python package, with hashes, from what pyproject.toml asks for.

`driver.txt` is what the image installs, `dev.txt` that and all that lab and tests
need. Both name packages, versions and hashes and no index, so that they install
from any mirror. Run by `make lock`, with pip-compile (pip-tools) on PATH.
"""

import pathlib
import subprocess
import tomllib
from typing import Final

HERE: Final = pathlib.Path(__file__).resolve().parent
PYPROJECT: Final = HERE.parent / "pyproject.toml"


def compile_lock(output: pathlib.Path, wanted: list[str], *options: str) -> None:
    """Write one lock file; versions it already pins are kept where they still fit."""
    subprocess.run(
        [
            "pip-compile",
            "--quiet",
            "--strip-extras",
            "--allow-unsafe",
            "--generate-hashes",
            "--no-header",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--no-emit-trusted-host",
            "--no-emit-options",
            "--no-annotate",
            *options,
            f"--output-file={output}",
            "-",
        ],
        input="\n".join(wanted),
        text=True,
        check=True,
        cwd=HERE,
    )


def main() -> None:
    """Write both lock files."""
    project = tomllib.loads(PYPROJECT.read_text())
    driver = project["project"]["dependencies"] + project["build-system"]["requires"]
    groups = [wanted for group in project["dependency-groups"].values() for wanted in group]
    compile_lock(HERE / "driver.txt", driver)
    # What both have is the same in both: tests run what the image holds.
    compile_lock(HERE / "dev.txt", driver + groups, "--constraint=driver.txt")


if __name__ == "__main__":
    main()
