"""A peering as a person asks for it, and what that makes of one that exists.

What is asked for is added; what a RemoteCluster says already and nobody mentions stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from csi_liqo.model import errors, names
from csi_liqo.service.tools import ports

TOKEN_SECONDS: Final = 7 * 24 * 3600
"""A token is renewed at half its life: a provider may be away for three days and a half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A peering as a person asks for it.

    ``cluster_id`` empty means Liqo's id of that cluster, or the peering's name.
    ``namespaces`` maps ours to the provider's; an empty value is for the template, or
    the same name. ``cluster`` is how the provider's API server is reached from here, as a
    kubeconfig's cluster entry, and ``address`` replaces its address for the controller
    when it is not empty. ``classes`` maps virtual to offered ones.
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

    @property
    def reach(self) -> dict[str, Any]:
        """How the controller reaches the provider."""
        return dict(self.cluster) | ({"server": self.address} if self.address else {})


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
        errors.PreconditionError: one of them holds the provider's own twins.
    """
    targets = set((mapping.get("explicit") or {}).values())
    template = mapping.get("template", "")
    for local in wish.namespaces:
        if local not in (mapping.get("explicit") or {}):
            filled = template.replace("${namespace}", local)
            targets.add(filled.replace("${consumer}", consumer_id))
    if names.DEFAULT_TWINS_NAMESPACE in targets:
        raise errors.PreconditionError(
            f"namespace {names.DEFAULT_TWINS_NAMESPACE} of the provider is kept for its own "
            "twins; map to another one"
        )
    return targets


def merge_classes(known: ports.Manifest | None, wanted: Mapping[str, str]) -> list[dict[str, str]]:
    before = (known or {}).get("spec", {}).get("classes") or []
    merged = {item["virtual"]: item["offered"] for item in before} | dict(wanted)
    return [{"virtual": virtual, "offered": offered} for virtual, offered in merged.items()]
