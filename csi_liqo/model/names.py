"""The names this driver writes into the clusters, each fixed once.

They are an interface: other tools, dashboards and older versions of this
driver read them, so none is ever changed.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "csi.liqo.io"

DEFAULT_DRIVER: Final = "csi.liqo.io"
DRIVER_NAMESPACE: Final = "csi-liqo"
"""Where the driver itself is installed."""
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
ATTEMPT_ANNOTATION: Final = f"{GROUP}/attempt"
"""On a virtual claim: the remote cluster where something of it may have been written."""

TWIN_FINALIZER: Final = f"{GROUP}/twin"

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

FENCE_CONFIG_MAP: Final = "csi-liqo-fence"
FENCE_KEY: Final = "twins"
"""In it: ``yes`` or ``no``, whether this cluster holds twins; an admission policy reads it."""

LIQO_PROVISIONER: Final = "liqo.io/storage"
STATIC_PROVISIONER: Final = "kubernetes.io/no-provisioner"
HOST_PATH_PROVISIONER: Final = "kubernetes.io/host-path"
