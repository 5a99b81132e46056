"""The Secret in this cluster that holds a provider's kubeconfig, and who may renew it."""

from __future__ import annotations

import base64
from typing import Final

from csi_liqo.model import names
from csi_liqo.service.tools import ports

KUBECONFIG_KEY: Final = "kubeconfig"
CONTROLLERS: Final = ("csi-liqo-controller", "csi-liqo-controller-attach")
"""The service accounts of the two installations that may share a peering."""


def name_of(peer: str) -> str:
    """Return the name of the Secret with a peering's kubeconfig."""
    return f"peer-{peer}"


def reference(peer: str) -> dict[str, str]:
    """Return what a RemoteCluster says of it."""
    return {
        "namespace": names.DRIVER_NAMESPACE,
        "name": name_of(peer),
        "key": KUBECONFIG_KEY,
    }


def kubeconfig_in(secret: ports.Manifest | None) -> str:
    """Return the kubeconfig's text, empty when there is none."""
    data = ((secret or {}).get("data") or {}).get(KUBECONFIG_KEY, "")
    return base64.b64decode(data).decode(errors="replace")


def encoded(kubeconfig: str) -> dict[str, str]:
    """Return a Secret's data."""
    return {KUBECONFIG_KEY: base64.b64encode(kubeconfig.encode()).decode()}


def forge_patch(secret: ports.Manifest, data: dict[str, str]) -> ports.Manifest:
    """Return the patch that puts other data into exactly this Secret, as it was read."""
    about = secret["metadata"]
    return {
        "metadata": {"uid": about["uid"], "resourceVersion": about["resourceVersion"]},
        "data": data,
    }


def renewal_rights(
    peer: str, labels: dict[str, str]
) -> tuple[tuple[ports.Kind, ports.Manifest], ...]:
    """Return what lets the controller write this one Secret, to put the next token into it."""
    about = {
        "name": f"csi-liqo-renew-{peer}",
        "namespace": names.DRIVER_NAMESPACE,
        "labels": labels,
    }
    rule = {
        "apiGroups": [""],
        "resources": ["secrets"],
        "verbs": ["patch"],
        "resourceNames": [name_of(peer)],
    }
    accounts = [(names.DRIVER_NAMESPACE, account) for account in CONTROLLERS]
    return (
        (ports.ROLES, {"metadata": about, "rules": [rule]}),
        (
            ports.ROLE_BINDINGS,
            {
                "metadata": about,
                "roleRef": {"apiGroup": ports.RBAC, "kind": "Role", "name": about["name"]},
                "subjects": ports.subjects(*accounts),
            },
        ),
    )
