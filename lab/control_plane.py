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
import dataclasses
import pathlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import aiohttp

from lab import certificates, errors, mount_points, processes, settings

ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLERS: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"

_POLL_SECONDS: Final = 0.05
_HIGH_RATE: Final = ("--kube-api-qps=500", "--kube-api-burst=1000")


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of one control plane."""

    api_server: int = settings.API_SERVER_PORT
    etcd: int = 2379
    etcd_peer: int = 2380
    etcd_health: int = 2381
    controllers: int = 10257
    scheduler: int = 10259

    @classmethod
    def free(cls) -> "Ports":
        """Choose ports of the loopback that nobody listens on now."""
        chosen: set[int] = set()
        while len(chosen) < len(dataclasses.fields(cls)):
            candidate = random.choice(settings.BARE_PORTS)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                chosen.add(candidate)
        return cls(*chosen)


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """Where a control plane runs and how it is reached.

    Attributes:
        host: address by which everyone reaches the API server.
        bind: address it listens on.
        own_mounts: the controller manager gets a mount namespace of its own, because it
            does not already run in a node's.
        advertise: whether the address is fit for the service `kubernetes` (a loopback is not).
    """

    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    ports: Ports = dataclasses.field(default_factory=Ports.free)
    service_range: str = "10.96.0.0/16"
    service_address: str = "10.96.0.1"
    surroundings: processes.Surroundings = dataclasses.field(default_factory=processes.Surroundings)
    own_mounts: bool = True
    advertise: bool = False
    extra_names: tuple[str, ...] = ()


class ControlPlane:
    """One cluster's control plane, its identities and its four processes."""

    def __init__(
        self,
        name: str,
        directory: pathlib.Path,
        binaries: pathlib.Path,
        *,
        site: Site | None = None,
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
        self.site = site or Site()
        self._binaries = binaries.absolute()
        self._extra = extra_arguments or {}
        self.authority = certificates.Authority(self.directory / "pki", name)
        self.components: dict[str, processes.Daemon] = {
            component: self._daemon(component, argv)
            for component, argv in self._commands().items()
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
            self._kubeconfig_of(CONTROLLERS): (f"system:{CONTROLLERS}", []),
            self._kubeconfig_of(SCHEDULER): (f"system:{SCHEDULER}", []),
        }
        for path, (user, groups) in identities.items():
            text = self.kubeconfig_text(user, groups)
            if not path.exists() or self.server not in path.read_text():
                certificates.write_kubeconfig(path, text)

    def _kubeconfig_of(self, component: str) -> pathlib.Path:
        return self.directory / "pki" / f"{component}.kubeconfig"

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

    def _commands(self) -> dict[str, list[str]]:
        return {
            ETCD: self._etcd(),
            API_SERVER: self._api_server(),
            CONTROLLERS: self._controllers(),
            SCHEDULER: self._scheduler(),
        }

    def _etcd(self) -> list[str]:
        ports = self.site.ports
        client = f"http://127.0.0.1:{ports.etcd}"
        peer = f"http://127.0.0.1:{ports.etcd_peer}"
        return [
            f"--name={self.name}",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={self.name}={peer}",
            f"--listen-metrics-urls=http://{self.site.host}:{ports.etcd_health}",
            "--unsafe-no-fsync",  # survives a killed process, not a crashed machine
            # One member: nobody to wait for before electing itself.
            "--heartbeat-interval=50",
            "--election-timeout=250",
            "--log-level=warn",
        ]

    def _api_server(self) -> list[str]:
        site = self.site
        names = {site.host, "127.0.0.1", "localhost", site.service_address, *site.extra_names}
        names |= {"kubernetes", "kubernetes.default", "kubernetes.default.svc"}
        serving = self.authority.ensure_server("apiserver", sorted(names))
        kubelets = self.authority.ensure_client(
            "apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"]
        )
        tokens = self.authority.ensure_signing_key("service-accounts")
        return [
            f"--etcd-servers=http://127.0.0.1:{site.ports.etcd}",
            f"--bind-address={site.bind}",
            f"--secure-port={site.ports.api_server}",
            f"--advertise-address={site.host}",
            f"--endpoint-reconciler-type={'lease' if site.advertise else 'none'}",
            f"--client-ca-file={self.ca}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--kubelet-certificate-authority={self.ca}",
            f"--kubelet-client-certificate={kubelets.certificate}",
            f"--kubelet-client-key={kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={tokens}",
            f"--service-account-signing-key-file={tokens}",
            f"--service-cluster-ip-range={site.service_range}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
        ]

    def _controllers(self) -> list[str]:
        kubeconfig = self._kubeconfig_of(CONTROLLERS)
        return [
            *self._component_flags(CONTROLLERS, self.site.ports.controllers),
            f"--root-ca-file={self.ca}",
            f"--cluster-signing-cert-file={self.ca}",
            f"--cluster-signing-key-file={self.authority.ca.key}",
            f"--service-account-private-key-file={self.authority.ensure_signing_key('service-accounts')}",
            "--use-service-account-credentials=true",
            # The smallest real dynamic provisioner: it needs no pods.
            "--enable-hostpath-provisioner=true",
            f"--flex-volume-plugin-dir={kubeconfig.parent / 'no-flex-volumes'}",
        ]

    def _scheduler(self) -> list[str]:
        return self._component_flags(SCHEDULER, self.site.ports.scheduler)

    def _component_flags(self, component: str, port: int) -> list[str]:
        kubeconfig = self._kubeconfig_of(component)
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={self.site.bind}",
            f"--secure-port={port}",
            "--leader-elect=false",
            *_HIGH_RATE,
        ]
