"""One lab among others on a machine.

An instance is a folder. Every name it uses on the machine comes from the
folder's absolute path, so two clones side by side, or a lab and its tests, do
not meet. Nothing about an instance is kept outside of its folder and the
kernel: a machine that restarts has forgotten all but the folder.
"""

import contextlib
import fcntl
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from lab import cgroups, errors, processes, settings


class Instance:
    """A folder and the names that derive from it."""

    def __init__(
        self,
        directory: pathlib.Path = settings.DEFAULT_INSTANCE,
        binaries: pathlib.Path = settings.DEFAULT_INSTANCE / "bin",
    ) -> None:
        """Name an instance; nothing is made yet.

        Args:
            directory: the instance's folder.
            binaries: folder of links to the built programs, shared by a clone's instances.
        """
        self.directory = directory.resolve()
        self.binaries = binaries.resolve()
        self.id = hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]

    @property
    def group(self) -> cgroups.Group:
        """The control group that holds every process of this instance."""
        return cgroups.Group(f"csi-liqo-lab-{self.id}")

    @property
    def host_link(self) -> str:
        """Name of the machine's own network interface into the instance (at most 15 letters)."""
        return f"liqolab{self.id}"

    @property
    def preferred_octet(self) -> int:
        """The second octet to try first: the one used before, else one from the name."""
        recorded = self._read().get("octet")
        if isinstance(recorded, int) and recorded in settings.SECOND_OCTETS:
            return recorded

        return settings.SECOND_OCTETS[int(self.id, 16) % len(settings.SECOND_OCTETS)]

    @property
    def recorded_octet(self) -> int | None:
        """The second octet that the clusters in the folder were made for; None before that."""
        return self.preferred_octet if "octet" in self._read() else None

    def record_octet(self, octet: int) -> None:
        """Remember the address range, which certificates and addresses are bound to."""
        self._write({**self._read(), "octet": octet})

    @property
    def installed(self) -> list[str]:
        """What the last `up` that came to its end installed; empty when none did."""
        return list(self._read().get("installed", []))

    @installed.setter
    def installed(self, what: list[str]) -> None:
        self._write({**self._read(), "installed": what})

    def forget(self) -> None:
        """Remove the record of this instance's address range and content."""
        self._record.unlink(missing_ok=True)

    def cluster_directory(self, cluster: str) -> pathlib.Path:
        """Where a cluster keeps its data, its logs and its `kubeconfig`."""
        return self.directory / cluster

    def surroundings(self, group: str, namespaces_of: int | None = None) -> processes.Surroundings:
        """Return where a lasting process of this instance runs.

        Args:
            group: name of the control group below the instance's that it joins.
            namespaces_of: id of the process whose network and mount namespaces it enters.
        """
        procs = self.group.child(group).daemons_file
        return processes.Surroundings(tied=False, namespaces_of=namespaces_of, cgroups=(procs,))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second `up` or `down` of this instance out.

        Raises:
            LabError: one is under way.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            try:
                # NB: not `flock`, which a child between fork and exec keeps when this is killed.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise errors.LabError(
                    f"another command is changing the lab in {self.directory}; wait for its end"
                ) from None
            yield

    @property
    def _record(self) -> pathlib.Path:
        return self.directory / "instance.json"

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record.read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # or a machine that lost its power
            return {}

        return record if isinstance(record, dict) else {}

    def _write(self, record: dict[str, Any]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps(record) + "\n")
        partial.replace(self._record)
