"""What ``csi-liqo peer`` prints. Of a credential only its end is ever shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from csi_liqo.cli import output

if TYPE_CHECKING:
    from csi_liqo.service.tools import parting, peering, peers, provider

_RIGHTS = (
    output.Column("permission"),
    output.Column("where"),
    output.Column("granted"),
    output.Column("for", prose=True),
    output.Column("missing"),
)
_PEERS = (
    output.Column("name"),
    output.Column("cluster"),
    output.Column("state"),
    output.Column("volumes"),
    output.Column("last contact"),
    output.Column("token ends"),
    output.Column("renewed", wide=True),
    output.Column("namespaces", wide=True, prose=True),
    output.Column("message", wide=True, prose=True),
)


def print_added(made: peering.Added) -> None:
    """Say what was written, what the account may do, and what each gap costs."""
    for what in made.written:
        print(f"wrote {what}")
    print(
        f"{made.name}: cluster {made.cluster_id} at {made.server}, token until "
        f"{output.time_text(made.token_expires_at)}, renewed by the controller\n"
    )
    output.print_table(_RIGHTS, [_right_row(right) for right in made.rights])
    missing = [right for right in made.rights if not right.granted]
    if missing:
        print()
    for right in missing:
        print(f"without {right.grant} in {right.where}: {right.cost}")
    if not any(right.grant == "claims" for right in made.rights):
        print("no namespace of the provider is lent yet: name one with --namespace")
    if made.unproven:
        print(
            f"warning: {made.server} need not prove that it is {made.name} ({made.unproven}): "
            "whoever answers there gets the token, and is believed",
            file=sys.stderr,
        )
    if "//127." in made.server or "//localhost" in made.server:
        print(
            f"note: pods cannot reach {made.server}; name the provider's address with --server",
            file=sys.stderr,
        )


def _right_row(right: provider.Checked) -> list[str]:
    granted = "yes" if right.granted else "no"
    return [right.grant, right.where, granted, right.purpose, ",".join(right.missing)]


def added_document(made: peering.Added) -> dict[str, object]:
    """Return the same for programs."""
    return {
        "name": made.name,
        "clusterID": made.cluster_id,
        "server": made.server,
        "serverUnproven": made.unproven or None,
        "tokenExpires": output.time_text(made.token_expires_at),
        "written": list(made.written),
        "rights": [
            {
                "grant": right.grant,
                "where": right.where,
                "granted": right.granted,
                "missingVerbs": list(right.missing),
                "purpose": right.purpose,
                "cost": "" if right.granted else right.cost,
            }
            for right in made.rights
        ],
    }


def print_peers(found: Sequence[peers.Peer], *, wide: bool) -> None:
    """Print one line a peer."""
    output.print_table(_PEERS, [_peer_row(peer) for peer in found], wide=wide)


def _peer_row(peer: peers.Peer) -> list[str]:
    left = "" if peer.token_ends is None else output.duration_text(peer.token_ends - time.time())
    mapping = peer.namespaces
    shown = [f"{local}={remote}" for local, remote in (mapping.get("explicit") or {}).items()]
    shown += [text for text in (mapping.get("template"), _default_of(mapping)) if text]
    return [
        peer.name,
        peer.cluster_id,
        peer.state,
        str(peer.volumes),
        peer.last_contact,
        f"in {left}" if left and not left.startswith("-") else left and "ended",
        "yes" if peer.renewed else "no",
        ", ".join(shown),
        peer.trouble,
    ]


def _default_of(mapping: dict[str, object]) -> str:
    return "*=same name" if mapping.get("default") == "SameName" else ""


def peer_document(peer: peers.Peer) -> dict[str, object]:
    """Return what is known of a peer, for programs."""
    return {
        "name": peer.name,
        "clusterID": peer.cluster_id,
        "state": peer.state,
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": message}
            for kind, (status, reason, message) in peer.conditions.items()
        ],
        "volumes": peer.volumes,
        "lastContact": peer.last_contact or None,
        "namespaceMapping": peer.namespaces,
        "tokenExpires": output.time_text(peer.token_ends) or None,
        "renewed": peer.renewed,
    }


def print_removed(done: parting.Removed, *, at_provider: bool) -> None:
    """Say what went, and what stays where."""
    for what in done.removed:
        print(f"removed {what}")
    for what in done.kept:
        print(f"kept {what} in the provider, with its data")
    for volume in done.forgotten:
        print(f"forgot volume {volume}: its data stays in the provider, out of reach from here")
    if done.forgotten:
        print(f"csi-liqo peer add {done.name} brings them back into reach")
    if not at_provider:
        print(
            "the account and its rights in the provider are still there; repeat with "
            "--provider-kubeconfig to remove them"
        )
