"""A peering as a person asks for it, and what that makes of one that exists.

What is asked for is added; what a RemoteCluster says already and nobody mentions stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from csi_liqo.model import errors, names
from csi_liqo.service.controller import negotiation
from csi_liqo.service.tools import grants, ports

TOKEN_SECONDS: Final = 7 * 24 * 3600
"""A token is renewed at half its life: a provider may be away for three days and a half."""

SKIP_VERIFY: Final = "insecure-skip-tls-verify"
"""In a kubeconfig's cluster entry: whoever answers at its address is believed."""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,198}[a-z0-9])?")
_ADDRESS: Final = re.compile(r"https?://[^/?#@\s]+(/[^?#@\s]*)?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEPT: Final = {
    grants.CONSUMERS_NAMESPACE: "holds that cluster's accounts of its consumers",
    names.DRIVER_NAMESPACE: "holds that cluster's own driver",
}
"""Namespaces of a provider in which no consumer gets rights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A peering as a person asks for it.

    ``cluster_id`` empty means Liqo's id of that cluster, or the peering's name.
    ``namespaces`` maps ours to the provider's; an empty value is for the template, or
    the same name. ``cluster`` is how the provider's API server is reached from here, as a
    kubeconfig's cluster entry, and ``address`` replaces its address for the controller
    when it is not empty. ``classes`` maps virtual to offered ones. ``unproven_allowed``:
    also a server that need not prove by a certificate that it is the provider.
    """

    name: str
    cluster: Mapping[str, Any]
    address: str = ""
    cluster_id: str = ""
    namespaces: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    grants: tuple[str, ...] = ()
    classes: Mapping[str, str] = field(default_factory=dict)
    token_seconds: int = TOKEN_SECONDS
    unproven_allowed: bool = False

    @property
    def reach(self) -> dict[str, Any]:
        """How the controller reaches the provider."""
        return dict(self.cluster) | ({"server": self.address} if self.address else {})


def why_unproven(cluster: Mapping[str, Any]) -> str:
    """Say why a kubeconfig's cluster need not prove who it is; empty when it must."""
    if cluster.get(SKIP_VERIFY):
        return f"its kubeconfig says {SKIP_VERIFY}"
    if not str(cluster.get("server", "")).startswith("https:"):
        return "its address is not https"
    return ""


def refuse_unfit(wish: Wish) -> None:
    """Refuse what can be judged without asking anybody.

    Raises:
        errors.InvalidRequestError: the name, or the address, is none.
        errors.PreconditionError: the provider need not prove who it is, and that is not
            wished for.
    """
    if not _NAME.fullmatch(wish.name):
        raise errors.InvalidRequestError(f"{wish.name!r} is no name of a RemoteCluster")
    if wish.address and not _ADDRESS.fullmatch(wish.address):
        raise errors.InvalidRequestError("--server is no address of the form https://host:port")
    why = why_unproven(wish.reach) or why_unproven(wish.cluster)
    if why and not wish.unproven_allowed:
        raise errors.PreconditionError(
            f"{wish.name} need not prove that it is {wish.name} ({why}), so whoever answers in its "
            "place gets the token and is believed; put the certificate of its authority into the "
            "kubeconfig, or allow it with --allow-insecure-skip-tls-verify"
        )


def id_of(remote: ports.Manifest | None) -> str:
    """Return the cluster id of a RemoteCluster, empty for none."""
    return str(remote["spec"]["clusterID"]) if remote is not None else ""


def merge_mapping(known: ports.Manifest | None, wish: Wish) -> dict[str, Any]:
    """Return the namespace mapping with what is new; a bare name is left to a template."""
    mapping = dict((known or {}).get("spec", {}).get("namespaceMapping") or {})
    if wish.template:
        mapping["template"] = wish.template
    explicit = dict(mapping.get("explicit") or {})
    for local, target in wish.namespaces.items():
        if target or not mapping.get("template"):
            explicit[local] = target or local
    return mapping | ({"explicit": explicit} if explicit else {})


def targets_of(mapping: dict[str, Any], wish: Wish, consumer_id: str) -> set[str]:
    """Return the provider's namespaces that the consumer needs rights in.

    Raises:
        errors.InvalidRequestError: one of them, or of ours, has a name that none can have.
        errors.PreconditionError: one of them is never lent.
    """
    targets = dict(mapping.get("explicit") or {})
    template = mapping.get("template", "")
    for local in wish.namespaces:
        _refuse_no_name(local, "no name of a namespace")
        if local not in targets:
            filled = template.replace("${namespace}", local)
            targets[local] = filled.replace("${consumer}", consumer_id)
    for local, target in targets.items():
        _refuse_no_name(target, f"no name of a namespace, and {local} is mapped to it")
        refused = negotiation.why_never(target) or _KEPT.get(target, "")
        if refused:
            raise errors.PreconditionError(
                f"namespace {target} of the provider {refused}; map {local} to another one"
            )
    return set(targets.values())


def _refuse_no_name(name: str, what: str) -> None:
    if not _NAMESPACE.fullmatch(name):
        raise errors.InvalidRequestError(f"{name!r} is {what}")


def merge_classes(known: ports.Manifest | None, wanted: Mapping[str, str]) -> list[dict[str, str]]:
    before = (known or {}).get("spec", {}).get("classes") or []
    merged = {item["virtual"]: item["offered"] for item in before} | dict(wanted)
    return [{"virtual": virtual, "offered": offered} for virtual, offered in merged.items()]
