"""What makes one cluster a provider of another: a virtual node and an identity.

In rome, node `milan` stands for the cluster milan; a virtual kubelet runs its
pods there. In milan, a service account stands for rome, with the rights that
`deploy/provider` describes and no others. In rome again, a RemoteCluster with
that account's kubeconfig tells the driver of milan.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import yaml

from lab import certificates, cluster, instance, network, processes, settings

_NAME: Final = settings.PROVIDER
_PROVIDER_MANIFESTS: Final = settings.REPOSITORY / "deploy" / "provider"
_DRIVER_NAMESPACE: Final = "csi-liqo"
_SECRET: Final = f"{settings.PROVIDER}-kubeconfig"
# What the consumer may do in the whole provider, and in a namespace lent to it.
_CLUSTER_GRANTS: Final = ("offered-classes", "volumes", "capacity", "identity")
_NAMESPACE_GRANTS: Final = ("claims", "events")


class Peering:
    """The consumer and the provider of an instance, and what is between them."""

    def __init__(
        self,
        owner: instance.Instance,
        wires: network.Network,
        consumer: cluster.Cluster,
        provider: cluster.Cluster,
        addresses: network.Addresses,
    ) -> None:
        self._instance = owner
        self._network = wires
        self._consumer = consumer
        self._provider = provider
        self._address = addresses.switch

    async def start_virtual_kubelet(self) -> None:
        """Have the virtual kubelet run; its node appears when it is there."""
        self._instance.group.child(network.GROUP).ensure_for_daemons()
        self.virtual_kubelet(await self._network.holder()).start()

    def virtual_kubelet(self, holder: int | None = None) -> processes.Daemon:
        """Return the process of the virtual node; to start it, name the switch's holder."""
        authority = self._consumer.plane.authority
        serving = authority.ensure_server("virtual-kubelet", [self._address])
        options = {
            "consumer-kubeconfig": self._consumer.plane.kubeconfig,
            "provider-kubeconfig": self._provider.plane.kubeconfig,
            "node": _NAME,
            "cluster-id": _NAME,
            "namespace-suffix": settings.NAMESPACE_SUFFIX,
            "listen-address": self._address,
            "port": settings.VIRTUAL_KUBELET_PORT,
            "tls-certificate": serving.certificate,
            "tls-key": serving.key,
            "client-ca": authority.ca.certificate,
        }
        surroundings = self._instance.surroundings(network.GROUP, holder)
        environment = {**os.environ, "PYTHONPATH": str(settings.REPOSITORY)}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return processes.Daemon(
            f"virtual kubelet of {_NAME}",
            [sys.executable, "-m", "lab.virtual_kubelet", *arguments],
            log=self._consumer.directory / "virtual-kubelet.log",
            pid_file=self._consumer.directory / "virtual-kubelet.pid",
            surroundings=processes.Surroundings(
                tied=False,
                namespaces_of=surroundings.namespaces_of,
                cgroups=surroundings.cgroups,
                environment=environment,
            ),
        )

    async def introduce(self) -> None:
        """Make the consumer's account and rights in the provider, and lend the first namespaces."""
        kubectl = self._provider.kubectl
        await kubectl(*cluster.APPLY, "--kustomize", _PROVIDER_MANIFESTS)
        objects: list[dict[str, Any]] = [
            _forge("v1", "Namespace", settings.CONSUMERS_NAMESPACE),
            _forge("v1", "ServiceAccount", settings.CONSUMER, settings.CONSUMERS_NAMESPACE),
        ]
        objects += [_forge_binding(grant) for grant in _CLUSTER_GRANTS]
        await kubectl(*cluster.APPLY, "--filename=-", stdin=yaml.safe_dump_all(objects))
        await self.lend(settings.LENT_NAMESPACES)

    async def lend(self, namespaces: Sequence[str]) -> None:
        """Let the consumer make claims in the provider's stand-ins of its namespaces."""
        objects = []
        for namespace in namespaces:
            remote = f"{namespace}{settings.NAMESPACE_SUFFIX}"
            objects.append(_forge("v1", "Namespace", remote))
            objects += [_forge_binding(grant, remote) for grant in _NAMESPACE_GRANTS]
        await self._provider.kubectl(
            *cluster.APPLY, "--filename=-", stdin=yaml.safe_dump_all(objects)
        )

    async def register(self) -> None:
        """Tell the consumer's driver of the provider; the driver's namespace must exist."""
        wanted = _forge("v1", "Secret", _SECRET, _DRIVER_NAMESPACE)
        if not await self._consumer.exists(f"secret/{_SECRET}", _DRIVER_NAMESPACE):
            wanted["stringData"] = {"kubeconfig": await self._kubeconfig()}
        remote = _forge("csi.liqo.io/v1alpha1", "RemoteCluster", _NAME)
        remote["spec"] = {
            "clusterID": _NAME,
            "kubeconfigSecretRef": {
                "namespace": _DRIVER_NAMESPACE,
                "name": _SECRET,
                "key": "kubeconfig",
            },
            "nodeSelector": {"liqo.io/remote-cluster-id": _NAME},
            "namespaceMapping": {"template": "${namespace}-${consumer}"},
        }
        objects = [remote] if "stringData" not in wanted else [wanted, remote]
        await self._consumer.kubectl(
            *cluster.APPLY, "--filename=-", stdin=yaml.safe_dump_all(objects)
        )

    async def _kubeconfig(self) -> str:
        token = await self._provider.kubectl(
            *("create", "token", settings.CONSUMER, f"--duration={settings.TOKEN_DURATION}"),
            f"--namespace={settings.CONSUMERS_NAMESPACE}",
        )
        plane = self._provider.plane
        return certificates.forge_kubeconfig(
            cluster=_NAME,
            server=plane.server,
            authority=plane.ca.read_bytes(),
            token=token.strip(),
        )


def _forge(api_version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _forge_binding(grant: str, namespace: str = "") -> dict[str, Any]:
    role = f"csi-liqo-consumer-{grant}"
    group = "rbac.authorization.k8s.io"
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    binding = _forge(f"{group}/v1", kind, f"{role}-{settings.CONSUMER}", namespace)
    binding["roleRef"] = {"apiGroup": group, "kind": "ClusterRole", "name": role}
    binding["subjects"] = [
        {
            "kind": "ServiceAccount",
            "name": settings.CONSUMER,
            "namespace": settings.CONSUMERS_NAMESPACE,
        }
    ]
    return binding
