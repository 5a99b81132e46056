"""What documents and lock files say is still so.

Covered: links between documents, the packages and targets that the README names,
lock files that fit pyproject.toml and install from any mirror; that pyproject.toml asks for
what the driver imports.
"""

from __future__ import annotations

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator

import pytest

from lab import settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==\S+ \\$", re.MULTILINE)


def anchors(document: pathlib.Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: pathlib.Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{document.name} links to {target}"


def test_the_readme_names_every_package_that_is_installed() -> None:
    text = (ROOT / "README.md").read_text()

    assert [name for name in settings.DEBIAN_PACKAGES if f"`{name}`" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(document: pathlib.Path) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", document.read_text())

    assert set(named) - set(targets) == set()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_packages_and_hashes_and_no_place(lock: pathlib.Path) -> None:
    for line in lock.read_text().splitlines():
        pin = re.fullmatch(r"[A-Za-z0-9._-]+==\S+ \\", line)
        digest = re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line)
        comment = re.fullmatch(r"(# The following packages are considered.*)?", line)
        assert pin or digest or comment, line


def test_the_locks_have_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    driver = {normalized(name) for name in REQUIREMENT.findall((LOCKS[1]).read_text())}
    everything = {normalized(name) for name in REQUIREMENT.findall((LOCKS[0]).read_text())}
    wanted = project["project"]["dependencies"]
    grouped = [item for group in project["dependency-groups"].values() for item in group]

    def names(requirements: list[str]) -> set[str]:
        return {normalized(re.split(r"[^A-Za-z0-9._-]", item)[0]) for item in requirements}

    assert [lock.name for lock in LOCKS] == ["dev.txt", "driver.txt"]
    assert names(wanted) <= driver <= everything
    assert names(grouped) <= everything


def imported() -> Iterator[str]:
    """Return the top-level modules that the driver imports, wherever in its functions."""
    for path in (ROOT / "csi_liqo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_the_driver_asks_for_every_package_that_it_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {normalized(re.split(r"[^A-Za-z0-9._-]", item)[0]) for item in project["dependencies"]}
    packages = importlib.metadata.packages_distributions()
    foreign = set(imported()) - sys.stdlib_module_names - {"csi_liqo"}

    missing = [
        name
        for name in foreign
        if not wanted & {normalized(package) for package in packages.get(name, ())}
    ]
    assert missing == []
