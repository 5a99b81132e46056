"""Where the components of a control plane run, and their command lines."""

import dataclasses
import pathlib
from typing import Final

from lab import certificates, ports, processes, settings

ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLERS: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"

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
        """Take ports of the loopback that nobody else listens on nor takes.

        Raises:
            LabError: all are taken.
        """
        return cls(*ports.take(len(dataclasses.fields(cls))))


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


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What the command lines of one control plane are made of.

    Attributes:
        name: of the cluster.
        directory: of its data.
        site: where it runs.
        authority: which makes the certificates that are missing.
    """

    name: str
    directory: pathlib.Path
    site: Site
    authority: certificates.Authority

    def kubeconfig_of(self, component: str) -> pathlib.Path:
        """The kubeconfig by which a component reaches the API server."""
        return self.directory / "pki" / f"{component}.kubeconfig"

    def command_lines(self) -> dict[str, list[str]]:
        """Return the flags of each component, in the order of their start."""
        return {
            ETCD: _etcd(self),
            API_SERVER: _api_server(self),
            CONTROLLERS: _controllers(self),
            SCHEDULER: _component_flags(self, SCHEDULER, self.site.ports.scheduler),
        }


def _etcd(plan: Plan) -> list[str]:
    own = plan.site.ports
    client = f"http://127.0.0.1:{own.etcd}"
    peer = f"http://127.0.0.1:{own.etcd_peer}"
    return [
        f"--name={plan.name}",
        f"--data-dir={plan.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={plan.name}={peer}",
        f"--listen-metrics-urls=http://{plan.site.host}:{own.etcd_health}",
        "--unsafe-no-fsync",  # survives a killed process, not a crashed machine
        # One member: nobody to wait for before electing itself.
        "--heartbeat-interval=50",
        "--election-timeout=250",
        "--log-level=warn",
    ]


def _api_server(plan: Plan) -> list[str]:
    site, authority = plan.site, plan.authority
    names = {site.host, "127.0.0.1", "localhost", site.service_address, *site.extra_names}
    names |= {"kubernetes", "kubernetes.default", "kubernetes.default.svc"}
    serving = authority.ensure_server("apiserver", sorted(names))
    kubelets = authority.ensure_client(
        "apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"]
    )
    tokens = authority.ensure_signing_key("service-accounts")
    return [
        f"--etcd-servers=http://127.0.0.1:{site.ports.etcd}",
        f"--bind-address={site.bind}",
        f"--secure-port={site.ports.api_server}",
        f"--advertise-address={site.host}",
        f"--endpoint-reconciler-type={'lease' if site.advertise else 'none'}",
        f"--client-ca-file={authority.ca.certificate}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--kubelet-certificate-authority={authority.ca.certificate}",
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


def _controllers(plan: Plan) -> list[str]:
    authority = plan.authority
    tokens = authority.ensure_signing_key("service-accounts")
    return [
        *_component_flags(plan, CONTROLLERS, plan.site.ports.controllers),
        f"--root-ca-file={authority.ca.certificate}",
        f"--cluster-signing-cert-file={authority.ca.certificate}",
        f"--cluster-signing-key-file={authority.ca.key}",
        f"--service-account-private-key-file={tokens}",
        "--use-service-account-credentials=true",
        # The smallest real dynamic provisioner: it needs no pods.
        "--enable-hostpath-provisioner=true",
        f"--flex-volume-plugin-dir={plan.directory / 'no-flex-volumes'}",
    ]


def _component_flags(plan: Plan, component: str, port: int) -> list[str]:
    kubeconfig = plan.kubeconfig_of(component)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={plan.site.bind}",
        f"--secure-port={port}",
        "--leader-elect=false",
        *_HIGH_RATE,
    ]
