"""What a twin is as a volume, and which twin a virtual volume is."""

from __future__ import annotations

from collections.abc import Iterable

from csi_liqo.model import (
    affinity,
    errors,
    ids,
    names,
    objects,
    quantities,
    source,
    topology,
    twins,
    volumes,
)
from csi_liqo.service.controller import clusters


def describe(
    consumer: clusters.Consumer, cluster: clusters.Cluster, twin: objects.Claim
) -> volumes.Volume:
    """Say what a twin is as a volume: size, real source, and where it can be reached.

    Raises:
        errors.OperationPendingError: its real volume has not been seen yet, or is gone.
        errors.PlacementError: its real volume is not where it was asked for.
        errors.PreconditionError: its real volume is of a kind that cannot be served.
    """
    context = {
        twins.TWIN_KEY: str(twins.TwinRef.of(twin)),
        twins.CONSUMER_KEY: consumer.cluster_id,
    }
    capacity = twin.status.capacity.get("storage") or twin.spec.resources.requests.get("storage")
    pins: tuple[topology.Segment, ...] = ({names.CLUSTER_KEY: cluster.id},)
    if cluster.local:
        real = _real_volume(consumer, twin)
        capacity = real.spec.capacity.get("storage")
        where = _source_of(consumer, real)
        pins = _pins_of(consumer, real, twin)
    else:
        mode = source.VolumeMode(twin.spec.volume_mode)
        where = source.Source(kind=source.Kind.REMOTE, volume_mode=mode)
    context |= source.to_context(where)
    source.check_size(context, twin.spec.volume_name)
    return volumes.Volume(
        id=ids.VolumeId(twin.volume_id),
        capacity_bytes=quantities.to_bytes(capacity or "0"),
        context=context,
        topology=pins,
    )


def _pins_of(
    consumer: clusters.Consumer, real: objects.PersistentVolume, twin: objects.Claim
) -> tuple[topology.Segment, ...]:
    """Return where a local real volume can be reached.

    A directory without affinity is where it was made; made for no node, in this cluster. A
    CSI volume without one is reachable from every node: its driver knows no topology. An
    Immediate class may bind a volume that the chosen node cannot reach, as the
    annotation is a hint only: the volume controller binds any free volume, and a
    provisioner out of room tries elsewhere (external-provisioner library v13,
    controller.go:1264-1275).
    """
    node = consumer.nodes.get("", twin.selected_node)
    if node is not None and not twin.handed_over and not affinity.matches(real, node):
        raise errors.PlacementError(
            f"real class {twin.spec.storage_class_name} made volume {real.name} where node "
            f"{node.name} cannot reach it"
        )
    nodes = [node for node in consumer.nodes.all() if not node.virtual]
    pinned = affinity.pin(real, consumer.cluster_id, nodes)
    if pinned:
        return pinned
    if twin.selected_node and real.spec.csi is None:
        return (topology.node_segment(consumer.cluster_id, twin.selected_node),)
    return ({names.CLUSTER_KEY: consumer.cluster_id},)


def _real_volume(consumer: clusters.Consumer, twin: objects.Claim) -> objects.PersistentVolume:
    """Return the real volume of a bound local twin.

    Raises:
        errors.OperationPendingError: it has not been seen yet, or is gone.
    """
    volume = consumer.volumes.get("", twin.spec.volume_name) if twin.spec.volume_name else None
    if volume is None:
        raise errors.OperationPendingError(f"twin {twin.reference} has no real volume to be seen")
    return volume


def _source_of(consumer: clusters.Consumer, volume: objects.PersistentVolume) -> source.Source:
    """Return where a real volume's bytes are.

    Raises:
        errors.PreconditionError: it is of a kind that this driver cannot mount.
    """
    spec = volume.spec
    mode = source.VolumeMode(spec.volume_mode)
    options = spec.mount_options
    if spec.host_path is not None:
        return source.Source(
            kind=source.Kind.HOST_PATH,
            path=spec.host_path.path,
            volume_mode=mode,
            mount_options=options,
        )
    if spec.local is not None:
        return source.Source(
            kind=source.Kind.LOCAL,
            path=spec.local.path,
            volume_mode=mode,
            fs_type=spec.local.fs_type,
            mount_options=options,
        )
    if spec.csi is not None:
        driver = consumer.csi_drivers.get("", spec.csi.driver)
        # Without a CSIDriver object Kubernetes attaches (kubernetes v1.37.2,
        # csi_plugin.go:861-864) and has these defaults for the rest.
        rules = driver.spec if driver is not None else objects.CsiDriverSpec()
        return source.Source(
            kind=source.Kind.CSI,
            volume_mode=mode,
            fs_type=spec.csi.fs_type,
            mount_options=options,
            csi=source.CsiSource(
                driver=spec.csi.driver,
                handle=spec.csi.volume_handle,
                persistent_volume=volume.name,
                attributes=spec.csi.volume_attributes,
                access_modes=spec.access_modes,
                fs_group_policy=source.FsGroupPolicy(rules.fs_group_policy),
                pod_info=rules.pod_info_on_mount,
                attach_required=rules.attach_required,
                requires_republish=rules.requires_republish,
            ),
        )
    raise errors.PreconditionError(
        f"real class {spec.storage_class_name} made volume {volume.name}, which is neither "
        "CSI, hostPath nor local; name a class that makes one of these in parameter localClass"
    )


def twin_of(volume: objects.PersistentVolume) -> twins.TwinRef:
    """Return the twin that a virtual volume names.

    A twin that was made again has another uid, and volume_context is immutable: the new one
    is then in an annotation, which only who may write volumes here can set.

    Raises:
        errors.InvalidRequestError: it names none, so this driver did not make it.
    """
    attributes = volume.spec.csi.volume_attributes if volume.spec.csi else {}
    named = volume.metadata.annotations.get(names.TWIN_ANNOTATION)
    return twins.TwinRef.parse(named or attributes.get(twins.TWIN_KEY, ""))


def names_twin(
    volume: objects.PersistentVolume, cluster: clusters.Cluster, twin: objects.Claim
) -> bool:
    """Tell whether a twin is the one of a virtual volume, or has its place.

    A claim that was sent elsewhere after all has its volume there, under the same id and
    perhaps with a twin of the same name: the home tells them apart.
    """
    try:
        reference = twin_of(volume)
    except errors.InvalidRequestError:
        return False
    same_name = (reference.namespace, reference.name) == (twin.namespace, twin.name)
    return same_name and home_of(volume) in ("", cluster.id)


def remembered_identity(volumes: Iterable[objects.PersistentVolume], cluster_id: str) -> str:
    """Return by what identity the virtual volumes of a cluster id know it; empty: none does.

    Forgotten volumes count, as they are there to come back. Where volumes disagree it is one
    that no cluster has: then it is for an administrator to say which is right.
    """
    known = {
        volume.metadata.annotations.get(names.IDENTITY_ANNOTATION, "")
        for volume in volumes
        if volume.spec.csi is not None
        and twins.TWIN_KEY in volume.spec.csi.volume_attributes
        and home_of(volume) == cluster_id
    }
    return ", ".join(sorted(known - {""}))


def home_of(volume: objects.PersistentVolume) -> str:
    """Return the id of the cluster that holds a virtual volume; empty when it says none."""
    for term in volume.terms:
        for rule in term.match_expressions:
            if rule.key == names.CLUSTER_KEY and rule.operator == "In" and len(rule.values) == 1:
                return rule.values[0]
    return ""
