"""The control plane of one cluster: etcd, API server, controller manager, scheduler.

The same four processes serve two purposes. Bare, on the host's loopback
with free ports and without kubelets, they are the real API server that tests
use, ready in about three seconds. In the network namespace of a node they are
the head of a lab's cluster.

    async with ControlPlane.start("rome", directory, binaries) as rome:
        rome.kubeconfig              # admin
        rome.kubeconfig_for("jane", groups=["developers"])
        rome.components["kube-apiserver"].pause()
"""

import asyncio
import contextlib
import pathlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import aiohttp

from lab import certificates, components, errors, mount_points, processes, settings

ETCD: Final = components.ETCD
API_SERVER: Final = components.API_SERVER
CONTROLLERS: Final = components.CONTROLLERS
SCHEDULER: Final = components.SCHEDULER

_POLL_SECONDS: Final = 0.05


class ControlPlane:
    """One cluster's control plane, its identities and its four processes."""

    def __init__(
        self,
        name: str,
        directory: pathlib.Path,
        binaries: pathlib.Path,
        *,
        site: components.Site | None = None,
        extra_arguments: Mapping[str, Sequence[str]] | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        """Describe a control plane; nothing runs before `up()`.

        Args:
            name: of the cluster; only for people.
            directory: its data, certificates and logs; what is there is used again.
            binaries: folder of the built programs.
            site: where it runs; None means bare, on free ports of the loopback.
            extra_arguments: component -> flags that are added to ours and win over them.
            without: components that are never started.
        """
        self.name = name
        self.directory = directory.absolute()
        self.site = site or components.Site()
        self._binaries = binaries.absolute()
        self._extra = extra_arguments or {}
        self.authority = certificates.Authority(self.directory / "pki", name)
        self._plan = components.Plan(name, self.directory, self.site, self.authority)
        self.components: dict[str, processes.Daemon] = {
            component: self._daemon(component, argv)
            for component, argv in self._plan.command_lines().items()
            if component not in without
        }

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        name: str,
        directory: pathlib.Path,
        binaries: pathlib.Path,
        *,
        extra_arguments: Mapping[str, Sequence[str]] | None = None,
        without: frozenset[str] = frozenset(),
    ) -> AsyncIterator["ControlPlane"]:
        """Run a bare control plane for the time of the block; it dies with its parent."""
        plane = cls(name, directory, binaries, extra_arguments=extra_arguments, without=without)
        try:
            await plane.up()
            yield plane
        finally:
            await plane.down()

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{self.site.host}:{self.site.ports.api_server}"

    @property
    def ca(self) -> pathlib.Path:
        """The file of the certificate that signs this cluster's servers and users."""
        return self.authority.ca.certificate

    @property
    def kubeconfig(self) -> pathlib.Path:
        """The administrator's kubeconfig; it exists from the start of `up()`."""
        return self.directory / "kubeconfig"

    @property
    def hostpath_directory(self) -> pathlib.Path:
        """What this cluster sees as the folder of the in-tree host-path provisioner."""
        return self.directory / "hostpath_pv"

    def kubeconfig_text(self, user: str, groups: Sequence[str] = (), *, server: str = "") -> str:
        """Return a kubeconfig for a user with a client certificate.

        Args:
            user: name the API server will see.
            groups: groups it will see.
            server: another URL of the API server, as of a proxy in front of it.
        """
        certificate, key = self.authority.client(user, groups)
        return certificates.forge_kubeconfig(
            cluster=self.name,
            server=server or self.server,
            authority=self.ca.read_bytes(),
            certificate=certificate,
            key=key,
        )

    def kubeconfig_for(
        self, user: str, groups: Sequence[str] = (), *, server: str = ""
    ) -> pathlib.Path:
        """Write a kubeconfig for a user beside the administrator's and return its path."""
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in user)
        path = self.directory / "kubeconfigs" / name
        return certificates.write_kubeconfig(
            path, self.kubeconfig_text(user, groups, server=server)
        )

    async def up(self) -> None:
        """Start what does not run and return when everything answers.

        Raises:
            ProcessDiedError: a component ended; the error has the end of its log.
            LabError: a component did not answer in time.
        """
        self._write_kubeconfigs()
        self.hostpath_directory.mkdir(parents=True, exist_ok=True)
        await self.start_component(ETCD)
        await self.start_component(API_SERVER)
        async with asyncio.TaskGroup() as group:
            for component in (CONTROLLERS, SCHEDULER):
                if component in self.components:
                    group.create_task(self.start_component(component), name=component)

    async def down(self) -> None:
        """End everything, clients before servers; data and certificates stay."""
        for wave in ((CONTROLLERS, SCHEDULER), (API_SERVER,), (ETCD,)):
            async with asyncio.TaskGroup() as group:
                for component in wave:
                    if component in self.components:
                        # NB: API servers drain watches for long; nothing here needs that.
                        group.create_task(self.components[component].kill(), name=component)
        if self.site.own_mounts:
            mount_points.remove_unused([pathlib.Path(settings.HOSTPATH_DIRECTORY)])

    async def start_component(self, component: str) -> None:
        """Start one component, or resume it, and wait until it answers.

        Raises:
            ProcessDiedError: it ended; the error has the end of its log.
            LabError: it did not answer in time.
        """
        daemon = self.components[component]
        daemon.start()
        daemon.resume()
        try:
            async with asyncio.timeout(settings.CONTROL_PLANE_TIMEOUT_SECONDS):
                while not await self.healthy(component):
                    daemon.check()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            reason = f"did not answer in {settings.CONTROL_PLANE_TIMEOUT_SECONDS:.0f} s"
            raise errors.ProcessDiedError(
                f"{component} of {self.name}", daemon.log, reason
            ) from None

    async def restart_component(self, component: str) -> None:
        """Kill one component and start it again, with the same data."""
        await self.components[component].kill()
        await self.start_component(component)

    async def healthy(self, component: str) -> bool:
        """Ask one component whether it is ready; no answer within 2 s is no."""
        if not self.components[component].running():
            return False

        ports = self.site.ports
        url = {
            ETCD: f"http://{self.site.host}:{ports.etcd_health}/health",
            API_SERVER: f"{self.server}/readyz",
            CONTROLLERS: f"https://{self.site.host}:{ports.controllers}/healthz",
            SCHEDULER: f"https://{self.site.host}:{ports.scheduler}/readyz",
        }[component]
        # Only the API server's certificate is of our authority; the others sign their own.
        trust = self._trust() if component == API_SERVER else False
        timeout = aiohttp.ClientTimeout(total=2)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, ssl=trust) as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        admin = self.authority.ensure_client("admin", "kubernetes-admin", ["system:masters"])
        context.load_cert_chain(admin.certificate, admin.key)
        return context

    def _write_kubeconfigs(self) -> None:
        identities = {
            self.kubeconfig: ("kubernetes-admin", ["system:masters"]),
            self._plan.kubeconfig_of(CONTROLLERS): (f"system:{CONTROLLERS}", []),
            self._plan.kubeconfig_of(SCHEDULER): (f"system:{SCHEDULER}", []),
        }
        for path, (user, groups) in identities.items():
            text = self.kubeconfig_text(user, groups)
            if not path.exists() or self.server not in path.read_text():
                certificates.write_kubeconfig(path, text)

    def _daemon(self, component: str, argv: Sequence[str]) -> processes.Daemon:
        command = [str(self._binaries / component), *argv, *self._extra.get(component, ())]
        if component == CONTROLLERS and self.site.own_mounts:
            script = f'set -e; {mount_points.SHELL} cover "$1" "$2"; shift 2; exec "$@"'
            shell = [processes.program("sh"), "-c", script, "sh"]
            unshare = [processes.program("unshare"), "--mount", "--propagation", "slave", "--"]
            own = [str(self.hostpath_directory), settings.HOSTPATH_DIRECTORY]
            command = [*unshare, *shell, *own, *command]
        return processes.Daemon(
            component,
            command,
            log=self.directory / f"{component}.log",
            pid_file=self.directory / f"{component}.pid",
            surroundings=self.site.surroundings,
        )
