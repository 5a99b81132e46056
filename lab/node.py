"""One node: kubelet, containerd and kube-proxy in namespaces of their own.

A holder process owns the node's network and mount namespaces. In the latter
every path that kubelet and containerd are used to is the node's own folder, so
manifests run here unchanged and nothing of the node shows on the machine.
Whatever is mounted goes with the last process of the node.
"""

import asyncio
import contextlib
import pathlib
import shlex
from typing import Final

from lab import (
    control_plane,
    errors,
    instance,
    mount_points,
    network,
    node_configuration,
    processes,
    settings,
)

HOLDER: Final = "holder"
CONTAINERD: Final = "containerd"
KUBELET: Final = "kubelet"
PROXY: Final = "kube-proxy"
SOCKET: Final = "/run/containerd/containerd.sock"

# What the node sees at a path -> the folder below the node's own that is really there.
COVERED: Final = {
    "/var/lib/kubelet": "kubelet",
    "/var/lib/cni": "cni",
    "/var/log/pods": "pod-logs",
    "/var/log/containers": "container-logs",
    "/run/containerd": "run",
}
MOUNT_POINTS: Final = (*map(pathlib.Path, COVERED), pathlib.Path(settings.HOSTPATH_DIRECTORY))
_POLL_SECONDS: Final = 0.05


class Node:
    """A node of a cluster, by its name, and its processes."""

    def __init__(
        self,
        name: str,
        owner: instance.Instance,
        plane: control_plane.ControlPlane,
        plan: node_configuration.Plan,
    ) -> None:
        self.name = name
        self.plan = plan
        self.directory = plane.directory / name
        self._instance = owner
        self._plane = plane
        self.holder = processes.Daemon(
            f"holder of {name}",
            self._holder_command(),
            log=plane.directory / f"{name}-{HOLDER}.log",
            pid_file=self.directory / f"{HOLDER}.pid",
            surroundings=owner.surroundings(self._daemon_group),
        )

    @property
    def daemons(self) -> dict[str, processes.Daemon]:
        """The node's processes beside the holder, by name; the holder must live."""
        commands = node_configuration.commands(self.plan, self.directory, self._instance.binaries)
        identity = self.holder.identity
        return {
            component: processes.Daemon(
                f"{component} of {self.name}",
                argv,
                log=self._plane.directory / f"{self.name}-{component}.log",
                pid_file=self.directory / f"{component}.pid",
                surroundings=self._instance.surroundings(
                    self._daemon_group, None if identity is None else identity.pid
                ),
            )
            for component, argv in commands.items()
        }

    def enter(self, *argv: str | pathlib.Path) -> list[str]:
        """Return a command that runs in the node's namespaces; use absolute paths in it.

        Raises:
            ProcessDiedError: the node is not there.
        """
        self.holder.check()
        identity = self.holder.identity
        assert identity is not None
        inside = processes.Surroundings(tied=False, namespaces_of=identity.pid)
        return inside.wrap([str(part) for part in argv])

    async def hold(self) -> int:
        """Have the node's namespaces with its folders in place; return the holder's id.

        A node whose holder died is ended wholly first: what is left of it lives in
        namespaces that nobody can enter any more.
        """
        ready = self.directory / "ready"
        if not self.holder.running():
            await self.kill()
            ready.unlink(missing_ok=True)
            self._prepare_folders()
            self._instance.group.child(self._daemon_group).ensure_for_daemons()
            self._instance.group.child(self.name).ensure_for_kubelet()
            self.holder.start()
        try:
            async with asyncio.timeout(settings.NODE_TIMEOUT_SECONDS):
                while not ready.exists():
                    self.holder.check()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            reason = "did not set up its mounts"
            raise errors.ProcessDiedError(self.holder.name, self.holder.log, reason) from None

        return await network.namespace_of(self.holder)

    async def start_containerd(self) -> None:
        """Have containerd answer.

        Raises:
            ProcessDiedError: it ended, or does not answer in time.
        """
        node_configuration.write(self.plan, self.directory, self._plane)
        daemon = self.daemons[CONTAINERD]
        daemon.start()
        daemon.resume()
        try:
            async with asyncio.timeout(settings.NODE_TIMEOUT_SECONDS):
                while not await self.containerd_answers():
                    daemon.check()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise errors.ProcessDiedError(daemon.name, daemon.log, "does not answer") from None

        # NB: containerd runs on when a plugin cannot be loaded.
        plugins = [line.split() for line in (await self.ctr("plugins", "list")).splitlines()]
        if not any(plugin[1] == "cri" and plugin[-1] == "ok" for plugin in plugins if plugin[1:]):
            raise errors.ProcessDiedError(daemon.name, daemon.log, "serves no pods")

    async def containerd_answers(self) -> bool:
        """Ask containerd for its version."""
        if not (self.directory / "run" / "containerd.sock").exists():
            return False

        with contextlib.suppress(errors.LabError):
            await self.ctr("version")
            return True
        return False

    async def ctr(self, *arguments: str | pathlib.Path) -> str:
        """Run `ctr` in the node, in the namespace that kubelet uses."""
        ctr = self._instance.binaries.resolve() / "ctr"
        return await processes.run(
            *self.enter(ctr, "--address", SOCKET, "--namespace", "k8s.io", *arguments)
        )

    def start_kubelet(self) -> bool:
        """Start kubelet and kube-proxy; the API server must answer already.

        Returns:
            Whether kubelet did not run before.
        """
        fresh = not self.daemons[KUBELET].running()
        for component in (PROXY, KUBELET):
            self.daemons[component].start()
            self.daemons[component].resume()
        return fresh

    def check(self) -> None:
        """Raise when one of the node's processes is not there.

        Raises:
            ProcessDiedError: with the end of its log.
        """
        for daemon in (self.holder, *self.daemons.values()):
            daemon.check()

    async def kill(self) -> None:
        """End every process of the node, containers too; the folders stay."""
        for group in (self._daemon_group, self.name):
            await self._instance.group.child(group).kill()
        for name in (HOLDER, *self.daemons):
            (self.directory / f"{name}.pid").unlink(missing_ok=True)

    @property
    def _daemon_group(self) -> str:
        return f"{self.name}.daemons"

    def _prepare_folders(self) -> None:
        for folder in COVERED.values():
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        # As after a restart of a machine: what /run held is gone.
        _empty(self.directory / "run")
        for name, value in settings.KUBELET_SYSCTLS.items():
            shadow = self.directory / "sysctl" / name
            shadow.parent.mkdir(parents=True, exist_ok=True)
            shadow.write_text(value + "\n")

    def _holder_command(self) -> list[str]:
        covers = [(self.directory / folder, path) for path, folder in COVERED.items()]
        covers.append((self._plane.hostpath_directory, settings.HOSTPATH_DIRECTORY))
        binds = [
            f"mount --bind {shlex.quote(str(self.directory / 'sysctl' / name))} /proc/sys/{name}"
            for name in settings.KUBELET_SYSCTLS
        ]
        script = [
            "set -e",
            mount_points.SHELL,
            *(f"cover {shlex.quote(str(own))} {path}" for own, path in covers),
            *binds,
            # Mounts made in a pod must reach the node, and those of the machine too.
            "mount --make-rshared /",
            f"touch {shlex.quote(str(self.directory / 'ready'))}",
            f"exec {processes.program('sleep')} infinity",
        ]
        unshare = [processes.program("unshare"), "--net", "--mount", "--propagation", "slave"]
        return [*unshare, "--", processes.program("sh"), "-c", "\n".join(script)]


def _empty(folder: pathlib.Path) -> None:
    for entry in sorted(folder.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
