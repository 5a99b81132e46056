"""csi-liqo: one virtual StorageClass for a federation of Kubernetes clusters."""

from typing import Final

__version__: Final = "0.1.0"
