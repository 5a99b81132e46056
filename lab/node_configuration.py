"""The configuration of a node's programs, from one plan of its names and addresses."""

import dataclasses
import json
import pathlib
from typing import Any, Final

import yaml

from lab import certificates, control_plane, mount_points, processes, settings

_RUNTIME: Final = "/run/containerd/containerd.sock"
_UNUSED_PLUGINS: Final = ", ".join(
    f'"io.containerd.{name}"'
    for name in (
        "nri.v1.nri",
        "snapshotter.v1.blockfile",
        "snapshotter.v1.btrfs",
        "snapshotter.v1.devmapper",
        "snapshotter.v1.erofs",
        "snapshotter.v1.zfs",
        "tracing.processor.v1.otlp",
    )
)
_KUBELET_DIRECTORY: Final = "/var/lib/kubelet"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What one node is called and where it sits.

    Attributes:
        address: the node's own.
        pods: range of the node's pods.
        cluster_pods: range of all pods of the cluster.
        cgroup: path of the group below which kubelet makes its own.
    """

    name: str
    address: str
    pods: str
    cluster_pods: str
    cgroup: str


def write(plan: Plan, directory: pathlib.Path, plane: control_plane.ControlPlane) -> None:
    """Write every file the node's programs read; certificates that are there are kept."""
    authority = plane.authority
    serving = authority.ensure_server(f"kubelet-{plan.name}", [plan.name, plan.address])
    identities = {
        "kubelet": (f"system:node:{plan.name}", ["system:nodes"]),
        "kube-proxy": ("system:kube-proxy", []),
    }
    for program, (user, groups) in identities.items():
        path = directory / f"{program}.kubeconfig"
        if not path.exists():
            certificates.write_kubeconfig(path, plane.kubeconfig_text(user, groups))
    documents = {
        "kubelet.yaml": _kubelet(plan, authority.ca.certificate, serving),
        "kube-proxy.yaml": _proxy(plan, directory),
    }
    for name, document in documents.items():
        _keep(directory / name, yaml.safe_dump(document, sort_keys=False))
    _keep(directory / "containerd.toml", _containerd(directory))
    network = directory / "cni-conf" / "10-lab.conflist"
    network.parent.mkdir(exist_ok=True)
    _keep(network, json.dumps(_pod_network(plan), indent=2))


def _keep(path: pathlib.Path, text: str) -> None:
    # NB: kube-proxy ends when its configuration is written, even with what it holds already.
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def commands(plan: Plan, directory: pathlib.Path, binaries: pathlib.Path) -> dict[str, list[str]]:
    """Return the command line of each of the node's programs, in the order of their start."""
    # containerd finds its shim, and kubelet mount and iptables, on PATH.
    path = f"PATH={binaries}:{settings.PROGRAM_PATH}"
    env = [processes.program("env"), path]
    return {
        "containerd": [*env, str(binaries / "containerd"), f"--config={directory}/containerd.toml"],
        "kubelet": [
            *env,
            str(binaries / "kubelet"),
            f"--config={directory}/kubelet.yaml",
            f"--kubeconfig={directory}/kubelet.kubeconfig",
            f"--hostname-override={plan.name}",
            f"--node-ip={plan.address}",
        ],
        "kube-proxy": [*env, str(binaries / "kube-proxy"), f"--config={directory}/kube-proxy.yaml"],
    }


def snapshotter(directory: pathlib.Path) -> str:
    """Return how containerd unpacks images in a folder."""
    return "overlayfs" if mount_points.allows_overlay(directory) else "native"


def forge_plain_containerd(root: pathlib.Path, state: pathlib.Path) -> str:
    """Return the configuration of a containerd that holds images and runs no pods."""
    return f"""\
version = 3
root = "{root}"
state = "{state}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime", {_UNUSED_PLUGINS}]

[grpc]
  address = "{state}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"

[plugins."io.containerd.transfer.v1.local"]
  unpack_config = [{{ platform = "linux/{settings.ARCHITECTURE}",
    snapshotter = "{snapshotter(root)}" }}]
"""


def _kubelet(plan: Plan, authority: pathlib.Path, serving: certificates.KeyPair) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{_RUNTIME}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{plan.cgroup}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE
        "volumePluginDir": f"{_KUBELET_DIRECTORY}/volume-plugins",
        "nodeStatusUpdateFrequency": "1s",
        "volumeStatsAggPeriod": "10s",
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        # There is no registry to fetch a collected image from again.
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
        # The machine's disk is not this node's to keep free.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
    }


def _proxy(plan: Plan, directory: pathlib.Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(directory / "kube-proxy.kubeconfig")},
        "hostnameOverride": plan.name,
        "clusterCIDR": plan.cluster_pods,
        "oomScoreAdj": 0,
        # The limit is the machine's, not a namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _pod_network(plan: Plan) -> dict[str, Any]:
    # NB: point to point and not a bridge: without the kernel's br_netfilter, an answer from a pod
    # to its neighbour on a bridge passes by netfilter, and a service's address is never undone.
    return {
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": plan.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _containerd(directory: pathlib.Path) -> str:
    return f"""\
version = 3
root = "{directory}/containerd"
state = "/run/containerd"
disabled_plugins = [{_UNUSED_PLUGINS}]

[grpc]
  address = "{_RUNTIME}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter(directory)}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{settings.PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE runc cannot lower a score, and dies trying.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{settings.CNI_PLUGINS}"]
  conf_dir = "{directory}/cni-conf"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{processes.program("runc")}"
"""
