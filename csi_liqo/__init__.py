"""csi-liqo: one virtual StorageClass for a federation of Kubernetes clusters."""
