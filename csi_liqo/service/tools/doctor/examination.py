"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from csi_liqo.service.tools import ports, told
from csi_liqo.service.tools.doctor import classes, facts, installation, providers, storage
from csi_liqo.service.tools.doctor.findings import Finding, Level

_CHECKS: Final[tuple[tuple[str, tuple[Callable[[facts.Facts], Iterable[Finding]], ...]], ...]] = (
    (
        "installation",
        (installation.check_version, installation.check_installed, installation.check_lease),
    ),
    ("cluster id", (installation.check_cluster_id,)),
    ("classes", (classes.check_classes,)),
    ("nodes", (installation.check_nodes,)),
    ("capacity", (storage.check_capacity,)),
    ("claims", (storage.check_claims,)),
    ("twins", (storage.check_local_twins,)),
    ("volumes", (storage.check_volumes,)),
    ("remote clusters", (providers.check_conditions,)),
    ("permissions", ()),
)


async def examine(server: ports.Server, connect: ports.Connect, given: told.Told) -> list[Finding]:
    """Return what there is to say, by check; a check without a finding is told as well.

    ``given`` is what the person says of the installation; the rest it is asked for itself.
    ``connect`` starts the programs that are in it, and no others.

    Raises:
        errors.ApiError: the API server does not answer.
    """
    seen = await facts.look(server, given)
    found = [
        Finding(
            level=Level.UNSEEN,
            check="access",
            message=f"{kind.plural} cannot be read ({why})",
            remedy=f"run as somebody who may {why}",
        )
        for kind, why in seen.hidden.items()
        if "has no" not in why
    ]
    for _, checks in _CHECKS:
        for check in checks:
            found += check(seen)
    found += [finding async for finding in providers.check_credentials(seen, server, connect)]
    found = list(dict.fromkeys(found))
    order = [name for name, _ in _CHECKS]
    spoken = {finding.check for finding in found}
    found += [
        Finding(level=Level.OK, check=name, message=_count(name, seen))
        for name in order
        if name not in spoken
    ]
    return sorted(found, key=lambda f: order.index(f.check) if f.check in order else -1)


def _count(check: str, seen: facts.Facts) -> str:
    """Say of what nothing was found, so that "ok" for none of them is told from ok."""
    match check:
        case "installation":
            return f"Kubernetes {seen.version}, drivers {', '.join(seen.drivers)}"
        case "cluster id":
            return seen.cluster_id or "unknown"
        case "classes":
            ours = [c.name for c in seen.classes if c.provisioner in seen.drivers]
            return ", ".join(ours)
        case "nodes":
            return f"{len(seen.schedulable)} that take pods"
        case "volumes":
            return f"{len(seen.virtual_volumes)} virtual ones"
        case "remote clusters" | "permissions":
            liqos = len(seen.providers) - len(seen.remote_clusters)
            described = f", {liqos} described by Liqo" if seen.source.of_liqo else ""
            return f"{len(seen.remote_clusters)} RemoteClusters{described}"
        case _:
            return "nothing to say"
