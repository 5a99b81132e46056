"""Checks of claims, volumes, local twins and capacity."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import description, fate
from csi_liqo.service.tools import ports, virtual, whereabouts
from csi_liqo.service.tools.doctor import facts
from csi_liqo.service.tools.doctor.findings import Finding, Level

PATIENCE_SECONDS: Final = 60.0
"""How long a scheduled claim may wait before it is told."""


def check_claims(seen: facts.Facts) -> Iterator[Finding]:
    """Check that no claim waits long for its volume; say what was said of one that does."""
    found = whereabouts.Whereabouts(seen.volumes, seen.claims, seen.classes)
    for row in found.rows():
        if row.state == "Provisioning" and _age(row.created) > PATIENCE_SECONDS:
            said = _latest_warning(seen, row.namespace, row.claim)
            yield Finding(
                level=Level.ERROR,
                check="claims",
                message=f"claim {row.namespace}/{row.claim} waits on node {row.node}"
                + (f": {said}" if said else ", and nothing was said of it"),
                remedy="what the message asks for"
                if said
                else f"see the controller's log in {names.DRIVER_NAMESPACE}",
            )
        elif row.state == "Lost":
            yield Finding(
                level=Level.ERROR,
                check="claims",
                message=f"claim {row.namespace}/{row.claim} lost its volume",
                remedy="csi-liqo adopt makes a volume for its twin again, if there is one",
            )


def check_volumes(seen: facts.Facts) -> Iterator[Finding]:
    """Check that each virtual volume has a home and a twin."""
    homes = {remote.spec.cluster_id for remote in seen.providers} | seen.liqo_clusters
    for volume in seen.virtual_volumes:
        home = description.home_of(volume)
        if virtual.forgotten(volume):
            yield tell(
                Level.WARNING,
                f"volume {volume.name}: its home {home} was removed and its data is kept there",
                f"csi-liqo peer add {home} --provider-kubeconfig FILE brings it back into reach",
            )
        elif not home:
            yield tell(
                Level.ERROR,
                f"volume {volume.name} names no home cluster in its node affinity",
                "it was not made by this driver; make it anew",
            )
        elif (
            not virtual.is_local(volume) and home not in homes and seen.sees(ports.REMOTE_CLUSTERS)
        ):
            yield tell(
                Level.ERROR,
                f"volume {volume.name}: no RemoteCluster stands for its home {home}",
                f"csi-liqo peer add {home} --provider-kubeconfig FILE",
            )
        elif health_of(volume) != "Healthy":
            yield tell(
                Level.ERROR,
                f"volume {volume.name} is {health_of(volume)}",
                REMEDIES.get(health_of(volume), ""),
            )
        elif virtual.is_local(volume) and seen.sees(ports.CLAIMS):
            twins = {(c.namespace, c.name): c for c in seen.claims if c.consumer}
            yield from check_twin(volume, twins, "")


REMEDIES: Final = {
    "TwinDeleted": "its data is there: stop its pods, then csi-liqo doctor --repair",
    "TwinGone": "csi-liqo doctor --repair helps if its real volume was kept (Retain); else a "
    "backup does",
    "TwinLost": "bring the real volume back; its data is nowhere else",
}
"""What helps a volume, by its health."""


def health_of(volume: objects.PersistentVolume) -> str:
    """Return what the controller says of the twin; a local one is well when it says nothing."""
    return volume.metadata.annotations.get(names.HEALTH_ANNOTATION, "Healthy")


def check_twin(
    volume: objects.PersistentVolume,
    twins: Mapping[tuple[str, str], objects.Claim],
    where: str,
) -> Iterator[Finding]:
    """Check that a volume's twin is among those of its home; ``where`` says which that is."""
    if fate.going(volume) or volume.deleting:
        return
    if names.RESTORE_ANNOTATION in volume.metadata.annotations:
        yield tell(
            Level.WARNING,
            f"volume {volume.name}: its repair was begun and has not come to its end",
            "csi-liqo doctor --repair goes on with it",
        )
        return
    try:
        wanted = description.twin_of(volume)
    except errors.InvalidRequestError as error:
        yield tell(Level.ERROR, f"volume {volume.name}: {error}", "make it anew")
        return
    twin = twins.get((wanted.namespace, wanted.name))
    what = f"volume {volume.name}: its twin {wanted.namespace}/{wanted.name}{where}"
    if twin is None or twin.uid != wanted.uid:
        yield tell(Level.ERROR, f"{what} is gone", REMEDIES["TwinGone"])
    elif twin.deleting:
        yield tell(Level.ERROR, f"{what} was deleted by someone", REMEDIES["TwinDeleted"])


def check_local_twins(seen: facts.Facts) -> Iterator[Finding]:
    """Check that no local twin that may hold data was left by its volume."""
    if not seen.sees(ports.CLAIMS, ports.VOLUMES):
        return
    handles = {v.spec.csi.volume_handle for v in seen.virtual_volumes if v.spec.csi}
    claims = {claim.uid for claim in seen.claims}
    for twin in seen.claims:
        if twin.namespace != names.DEFAULT_TWINS_NAMESPACE or twin.consumer != seen.cluster_id:
            continue
        left = twin.volume_id not in handles and twin.claim_uid not in claims
        wanted = names.RETAINED_ANNOTATION in twin.metadata.annotations
        if left and twin.handed_over and not wanted:
            yield Finding(
                level=Level.WARNING,
                check="twins",
                message=f"twin {twin.reference} holds data and no virtual volume names it",
                remedy=f"csi-liqo adopt {seen.cluster_id} {twin.reference}; if its data is not "
                f"wanted, label it {names.FENCE_LABEL}={names.FENCE_OPEN}, take off its finalizer "
                f"{names.TWIN_FINALIZER} and delete it",
            )


def check_capacity(seen: facts.Facts) -> Iterator[Finding]:
    """Check that the scheduler finds a capacity object for each node it may choose.

    It passes over a node that none selects, for every new volume (kubernetes v1.37.2,
    volumebinding/binder.go, hasEnoughCapacity).
    """
    asked = {
        item["metadata"]["name"]
        for item in seen.manifests(ports.CSI_DRIVERS)
        if item["spec"].get("storageCapacity")
    }
    if not seen.sees(ports.CAPACITIES, ports.CLASSES, ports.NODES):
        return
    for known in seen.classes:
        if known.provisioner not in asked or known.provisioner not in seen.drivers:
            continue
        told = [c for c in seen.manifests(ports.CAPACITIES) if c["storageClassName"] == known.name]
        without = [
            node.name
            for node in seen.nodes
            if node.name in seen.schedulable
            and not any(_selects(c.get("nodeTopology"), node.metadata.labels) for c in told)
        ]
        if without:
            yield Finding(
                level=Level.ERROR,
                check="capacity",
                message=f"no CSIStorageCapacity of class {known.name} selects "
                f"{', '.join(sorted(without)[:5])}: no new volume is scheduled there",
                remedy="see that the controller runs; it writes them",
            )


def _selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an absent one matches nothing, as the scheduler has it."""
    if selector is None:
        return False
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_meets(rule, labels) for rule in selector.get("matchExpressions") or ())


def _meets(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def _latest_warning(seen: facts.Facts, namespace: str, name: str) -> str:
    def about(event: ports.Manifest) -> bool:
        target = event.get("involvedObject") or {}
        return (
            event.get("type") == "Warning"
            and target.get("kind") == "PersistentVolumeClaim"
            and (target.get("namespace"), target.get("name")) == (namespace, name)
        )

    def moment(event: ports.Manifest) -> str:
        times = (event.get("lastTimestamp"), event.get("eventTime"))
        return next(filter(None, times), "") or event["metadata"]["creationTimestamp"]

    newest = max(filter(about, seen.manifests(ports.EVENTS)), key=moment, default=None)
    return " ".join(str(newest["message"]).split()) if newest else ""


def _age(created: str) -> float:
    begun = datetime.datetime.fromisoformat(created)
    return (datetime.datetime.now(datetime.UTC) - begun).total_seconds()


def tell(level: Level, message: str, remedy: str) -> Finding:
    """Return a finding about a volume."""
    return Finding(level=level, check="volumes", message=message, remedy=remedy)
