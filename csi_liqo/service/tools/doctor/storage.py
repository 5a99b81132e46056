"""Checks of claims, volumes, local twins and capacity."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import description
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
    homes = {remote.spec.cluster_id for remote in seen.remote_clusters} | seen.liqo_clusters
    for volume in seen.virtual_volumes:
        home = description.home_of(volume)
        health = volume.metadata.annotations.get(names.HEALTH_ANNOTATION, "Healthy")
        if virtual.forgotten(volume):
            yield _volume(
                Level.WARNING,
                f"volume {volume.name}: its home {home} was removed and its data is kept there",
                f"csi-liqo peer add {home}; or delete the PersistentVolume to give up the data",
            )
        elif not home:
            yield _volume(
                Level.ERROR,
                f"volume {volume.name} names no home cluster in its node affinity",
                "it was not made by this driver; make it anew",
            )
        elif (
            not virtual.is_local(volume) and home not in homes and seen.sees(ports.REMOTE_CLUSTERS)
        ):
            yield _volume(
                Level.ERROR,
                f"volume {volume.name}: no RemoteCluster stands for its home {home}",
                f"csi-liqo peer add {home} --provider-kubeconfig FILE",
            )
        elif health != "Healthy":
            yield _volume(
                Level.ERROR, f"volume {volume.name} is {health}", _REMEDIES.get(health, "")
            )
        elif virtual.is_local(volume):
            yield from _local_twin(seen, volume)


_REMEDIES: Final = {
    "TwinDeleted": "csi-liqo doctor --repair",
    "TwinGone": "csi-liqo doctor --repair; its data is there only if its real volume is",
    "TwinLost": "bring the real volume back; its data is nowhere else",
}


def _local_twin(seen: facts.Facts, volume: objects.PersistentVolume) -> Iterator[Finding]:
    try:
        twin = description.twin_of(volume)
    except errors.InvalidRequestError as error:
        yield _volume(Level.ERROR, f"volume {volume.name}: {error}", "make it anew")
        return
    uids = {(c.namespace, c.name): c.uid for c in seen.claims if c.consumer}
    if seen.sees(ports.CLAIMS) and uids.get((twin.namespace, twin.name)) != twin.uid:
        yield _volume(
            Level.ERROR,
            f"volume {volume.name}: its twin {twin.namespace}/{twin.name} is gone",
            _REMEDIES["TwinGone"],
        )


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
        if left and twin.handed_over:
            yield Finding(
                level=Level.WARNING,
                check="twins",
                message=f"twin {twin.reference} holds data and no virtual volume names it",
                remedy=f"csi-liqo adopt {seen.cluster_id} {twin.reference}; or delete it, after "
                f"taking off its finalizer {names.TWIN_FINALIZER}, if its data is not wanted",
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


def _volume(level: Level, message: str, remedy: str) -> Finding:
    return Finding(level=level, check="volumes", message=message, remedy=remedy)
