"""Accounts for all that an instance of the lab can leave on the machine."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
from typing import TYPE_CHECKING, Any

from lab import cgroups, mount_points, node, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import instance


def remains(owner: instance.Instance, octet: int) -> set[str]:
    """Return everything on the machine that belongs to an instance, named by kind."""
    return {
        *_processes(owner),
        *_mounts(owner),
        *_groups(owner),
        *_network(owner, octet),
        *_loop_devices(owner),
        *_files(owner),
    }


def _processes(owner: instance.Instance) -> Iterator[str]:
    for process in pathlib.Path("/proc").iterdir():
        if process.name.isdecimal() and processes.start_time(int(process.name)) is not None:
            # It may end while it is looked at.
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if f"{owner.directory}/" in command:
                    yield f"process {process.name}: {command}"


def _mounts(owner: instance.Instance) -> Iterator[str]:
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if str(owner.directory) in line:
            yield f"mount {line}"


def _groups(owner: instance.Instance) -> Iterator[str]:
    for root in cgroups.hierarchies().all:
        if (root / owner.group.path).exists():
            yield f"control group {root / owner.group.path}"


def _network(owner: instance.Instance, octet: int) -> Iterator[str]:
    for link in _json("ip", "-json", "link"):
        if link["ifname"] == owner.host_link:
            yield f"interface {link['ifname']}"
    for route in _json("ip", "-json", "route", "show", "table", "all"):
        if str(route["dst"]).startswith(f"10.{octet}."):
            yield f"route {route}"
    for rule in _run("iptables-save").splitlines():
        if f" 10.{octet}." in rule:
            yield f"firewall rule {rule}"


def _loop_devices(owner: instance.Instance) -> Iterator[str]:
    for line in _run("losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE").splitlines():
        if str(owner.directory) in line:
            yield f"loop device {line}"


def _files(owner: instance.Instance) -> Iterator[str]:
    for path in owner.directory.iterdir():
        if path.name != "lock":
            yield f"file {path}"
    # An empty folder stays only for somebody else who runs a lab now.
    covered = mount_points.mounted_anywhere()
    for path in node.MOUNT_POINTS:
        if path.exists() and str(path) not in covered:
            yield f"folder {path}"


def _json(*command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_run(*command))
    return found


def _run(name: str, *arguments: str) -> str:
    command = [processes.program(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
