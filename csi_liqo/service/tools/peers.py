"""The peerings there are, as this cluster's objects tell."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from csi_liqo.model import credentials, errors, names
from csi_liqo.service.tools import ports, virtual


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One RemoteCluster.

    ``conditions`` maps each type to its status, reason and message. ``token_ends`` is in
    seconds since 1970; None when the credential is of another kind, or may not be read.
    """

    name: str
    cluster_id: str
    conditions: dict[str, tuple[str, str, str]]
    volumes: int
    last_contact: str
    namespaces: dict[str, Any]
    token_ends: float | None
    renewed: bool

    @property
    def state(self) -> str:
        """One word: that all is well, or the reason of the first condition that is not so."""
        bad = [
            reason for kind, (status, reason, _) in self.conditions.items() if is_bad(kind, status)
        ]
        return bad[0] if bad else ("Ready" if self.conditions else "Unknown")

    @property
    def trouble(self) -> str:
        """What the conditions say that is not as it should be; empty when all is well."""
        told = [m for kind, (s, _, m) in self.conditions.items() if is_bad(kind, s)]
        return "; ".join(dict.fromkeys(told))


def is_bad(kind: str, status: str) -> bool:
    """Whether a condition's status is one to act on."""
    return status == ("True" if kind in ("Conflict", "Terminating") else "False")


async def peers(server: ports.Server) -> list[Peer]:
    """Return all peerings, those included that `add` did not make.

    Raises:
        errors.ApiError: RemoteClusters or volumes cannot be read.
    """
    volumes = await server.list(ports.VOLUMES)
    found = []
    for remote in await server.list(ports.REMOTE_CLUSTERS):
        spec, status = remote["spec"], remote.get("status") or {}
        token, renewed = await _token_of(server, spec["kubeconfigSecretRef"])
        found.append(
            Peer(
                name=remote["metadata"]["name"],
                cluster_id=spec["clusterID"],
                conditions={
                    item["type"]: (item["status"], item["reason"], item["message"])
                    for item in status.get("conditions") or ()
                },
                volumes=len(list(virtual.volumes_at(volumes, spec["clusterID"]))),
                last_contact=status.get("lastContact", ""),
                namespaces=spec.get("namespaceMapping") or {},
                token_ends=token.expires_at if token else None,
                renewed=renewed,
            )
        )
    return sorted(found, key=lambda peer: peer.name)


async def _token_of(
    server: ports.Server, reference: dict[str, str]
) -> tuple[credentials.Token | None, bool]:
    try:
        secret = await server.find(ports.SECRETS, reference["name"], reference["namespace"])
    except errors.ApiForbiddenError:
        return None, False
    encoded = ((secret or {}).get("data") or {}).get(reference["key"], "")
    if secret is None or not encoded:
        return None, False
    try:
        token = credentials.token_of(base64.b64decode(encoded).decode(errors="replace"))
    except errors.PreconditionError:
        token = None
    return token, ports.labels_of(secret).get(names.RENEW_LABEL) == "true"
