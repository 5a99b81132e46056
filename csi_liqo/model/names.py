"""The names this driver writes into the clusters, each fixed once.

They are an interface: other tools, dashboards and older versions of this
driver read them, so none is ever changed.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "csi.liqo.io"

DEFAULT_DRIVER: Final = "csi.liqo.io"
DRIVER_NAMESPACE: Final = "csi-liqo"
"""Where the driver runs, and the only namespace whose Secrets it reads."""
DEFAULT_TWINS_NAMESPACE: Final = "csi-liqo-storage"
"""Where local twins live; never the target of a namespace mapping."""

CLUSTER_KEY: Final = "topology.csi.liqo.io/cluster"
NODE_KEY: Final = "topology.csi.liqo.io/node"

VOLUME_LABEL: Final = f"{GROUP}/volume"
"""On a twin: the volume's id. An index only: a tenant could forge it."""
CONSUMER_LABEL: Final = f"{GROUP}/consumer"
"""On everything this driver makes: the consumer's cluster id."""
DRIVER_LABEL: Final = f"{GROUP}/driver"
"""On a VolumeAttachment of ours: the driver name of the installation that made it."""
OFFERED_LABEL: Final = f"{GROUP}/offered"
"""On a provider's StorageClass: ``true`` offers it to consumers."""

CLAIM_ANNOTATION: Final = f"{GROUP}/claim"
"""On a twin: ``<namespace>/<name>`` of its virtual claim."""
CLAIM_UID_ANNOTATION: Final = f"{GROUP}/claim-uid"
HANDED_OVER_ANNOTATION: Final = f"{GROUP}/handed-over"
"""On a twin: ``true`` from just before CreateVolume answered; such a twin may hold data."""
ATTEMPTS_CONFIG_MAP: Final = "csi-liqo-attempts"
"""Among the local twins, one for all installations: claims without a volume of which something
may have been written to a provider (``model.attempts``)."""

FENCE_LABEL: Final = f"{GROUP}/fence"
FENCE_OPEN: Final = "open"
"""On what is to be deleted: ``open`` lets it go though volumes live there."""
FENCE_CONFIG_MAP: Final = "csi-liqo-fence"
"""Among the local twins, one for all installations: what the fence around them knows."""
FENCE_KEY: Final = "twins"
"""In it: ``yes`` or ``no``, whether this cluster holds twins."""
FACTS_LABEL: Final = f"{GROUP}/facts"
"""On a ConfigMap of this driver: which facts of admission policies are in it."""
HOMES_CONFIG_MAP: Final = "csi-liqo-homes"
"""Among the local twins, one an installation: where its volumes have their homes."""
HOMES_FACTS: Final = "homes"
"""In the consumer: how many volumes have their home in which provider."""
TWINS_FACTS: Final = "twins"
"""In a provider's namespace: how many twins are in it."""

IDENTITY_ANNOTATION: Final = f"{GROUP}/identity"
"""On a virtual node that Liqo made: the identity of the provider it stood for when last seen.
On a remote volume: that of the cluster where its data was when last seen there."""

REAL_CLASS_ANNOTATION: Final = f"{GROUP}/real-class"
"""On the virtual volume and claim of a remote twin that is bound: its class in the provider."""
REAL_VOLUME_ANNOTATION: Final = f"{GROUP}/real-volume"
"""Beside it: the name of the real volume."""
REAL_CAPACITY_ANNOTATION: Final = f"{GROUP}/real-capacity"
"""Beside it: the real volume's capacity, as a Kubernetes quantity."""
REAL_PHASE_ANNOTATION: Final = f"{GROUP}/real-phase"
"""Beside it: the phase of the twin. While all these are absent the twin is not bound yet."""
HEALTH_ANNOTATION: Final = f"{GROUP}/health"
"""On a virtual volume and claim: a value of ``model.health.Health``. Absent on a local one is
healthy, on a remote one "the twin is not bound yet"."""

TWIN_ANNOTATION: Final = f"{GROUP}/repaired-twin"
"""On a virtual volume whose twin was made again: the new one, in the place of the one that its
immutable volume_context names."""
SUCCESSOR_ANNOTATION: Final = f"{GROUP}/successor-of"
"""On a twin that was made again: the uid of the one it follows."""
VIRTUAL_CLASS_ANNOTATION: Final = f"{GROUP}/virtual-class"
"""On a twin: the virtual class of its claim, by which a lost virtual volume is made again."""
RETAINED_ANNOTATION: Final = f"{GROUP}/retained"
"""On a twin whose virtual volume was released and has reclaim policy Retain: what to remember
of that volume (``model.kept.Kept``)."""
RESTORE_ANNOTATION: Final = f"{GROUP}/restore"
"""On a virtual volume while its twin is made again: all that this needs (``model.restore``)."""

FROM_CLAIM_ANNOTATION: Final = f"{GROUP}/from-claim"
"""On a twin: which labels and annotations are copies of its claim's, with hashes of them."""
FROM_TWIN_ANNOTATION: Final = f"{GROUP}/from-twin"
"""On a virtual claim: which labels and annotations are copies of its twin's."""

TWIN_FINALIZER: Final = f"{GROUP}/twin"
REMOTE_CLUSTER_FINALIZER: Final = f"{GROUP}/remote-cluster"
"""On a RemoteCluster while volumes have their home there."""

REMOTE_CLASS_ANNOTATION: Final = "liqo.io/remote-storage-class"
REMOTE_ACCESS_MODES_ANNOTATION: Final = "liqo.io/remote-access-modes"

SELECTED_NODE_ANNOTATION: Final = "volume.kubernetes.io/selected-node"
DEFAULT_CLASS_ANNOTATION: Final = "storageclass.kubernetes.io/is-default-class"

NODE_TYPE_LABEL: Final = "liqo.io/type"
VIRTUAL_NODE_TYPE: Final = "virtual-node"
REMOTE_CLUSTER_ID_LABEL: Final = "liqo.io/remote-cluster-id"

REAL_DRIVERS_CONFIG_MAP: Final = "csi-liqo-real-drivers"
REAL_DRIVERS_KEY: Final = "drivers.json"
"""In it: the CSI drivers behind the virtual classes, a JSON list that node plugins read."""

LIQO_PROVISIONER: Final = "liqo.io/storage"
STATIC_PROVISIONER: Final = "kubernetes.io/no-provisioner"
HOST_PATH_PROVISIONER: Final = "kubernetes.io/host-path"

CONTROLLER_ACCOUNT: Final = "csi-liqo-controller"
"""There: the service account of the controller of the installation that does not attach."""
LEASE_SUFFIX: Final = "-controller"
"""There: after a driver's name, the Lease of its controller that reconciles."""
RENEW_LABEL: Final = f"{GROUP}/renew"
"""On a Secret with a kubeconfig: ``true`` lets the controller renew the token in it."""
TOKEN_LABEL: Final = f"{GROUP}/token-of"
"""On a Secret in a provider: tokens of this consumer are bound to it."""
FORGOTTEN_ANNOTATION: Final = f"{GROUP}/forgotten"
"""On a virtual volume: its home cluster, which was removed while its data was kept there."""
