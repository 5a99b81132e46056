"""Where a volume goes: from a topology segment to the twin that must exist there.

Local and remote differ in namespace, name, class and selected node; after this
module nothing else tells them apart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import errors, ids, names, objects, source, topology, twins, volumes
from csi_liqo.service.controller import (
    access_modes,
    attempts,
    classes,
    clusters,
    negotiation,
    parameters,
    real_drivers,
    static,
)

logger = logging.getLogger(__name__)

DEFAULT_SIZE_BYTES: Final = 1 << 30
"""Of a volume that nobody asked a size for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A cluster, and the twin a volume wants there.

    ``binds``: whether the twin gets its real volume before any pod uses it.
    ``choice``: the volumes made by hand that fit; None for a class that makes its own.
    """

    cluster: clusters.Cluster
    spec: twins.TwinSpec
    binds: bool
    choice: static.Choice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A CreateVolume request, read and understood; ``claim`` is None when it names none."""

    id: ids.VolumeId
    request: volumes.CreateRequest
    parameters: parameters.Parameters
    claim: objects.Claim | None

    @property
    def size_bytes(self) -> int:
        asked = self.request.required_bytes or DEFAULT_SIZE_BYTES
        return min(asked, self.request.limit_bytes) if self.request.limit_bytes else asked

    @property
    def volume_mode(self) -> source.VolumeMode:
        return self.request.capabilities[0].volume_mode

    @property
    def access_modes(self) -> tuple[str, ...]:
        if self.claim is not None:
            return self.claim.spec.access_modes
        modes = (access_modes.as_claimed(c.access_mode) for c in self.request.capabilities)
        return tuple(dict.fromkeys(modes))


class Places:
    """Finds the place for a wish; what it refuses has left nothing behind."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        noted: attempts.Attempts,
        *,
        driver: str,
        twins_namespace: str,
        attaches: bool,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._attempts = noted
        self._driver = driver
        self._real_drivers = real_drivers.RealDrivers(consumer, attaches=attaches)
        self._twins_namespace = twins_namespace
        self._spoken_for: set[str] = set()
        """Volumes made by hand that running calls are writing to."""

    async def choose(self, wish: Wish, segment: topology.Segment) -> Place:
        """Return the place that a segment means; without a cluster it means this one.

        Raises:
            errors.PlacementError: that cluster or node cannot hold the volume.
            errors.PreconditionError: a setting must be changed first.
            errors.OutcomeUnknownError: the provider is out of reach and may hold a trace.
        """
        cluster_id = segment.get(names.CLUSTER_KEY, self._consumer.cluster_id)
        if cluster_id == self._consumer.cluster_id:
            return self._local(wish, segment.get(names.NODE_KEY, ""))
        return await self._remote(wish, cluster_id)

    def _local(self, wish: Wish, node_value: str) -> Place:
        real = self.real_class(wish.parameters.local_class)
        node = self._node(node_value) if node_value else None
        by_hand = real.provisioner == names.STATIC_PROVISIONER
        self._real_drivers.check(real, node, wish.claim)
        access_modes.refuse_beforehand(
            real, wish.access_modes, wish.volume_mode.value, self._consumer.cluster_id
        )
        if node is None and (real.waits or by_hand):
            raise errors.PreconditionError(
                f"real class {real.name} needs to know the node of the first consumer; give the "
                "virtual StorageClass volumeBindingMode WaitForFirstConsumer"
            )
        spec = twins.TwinSpec(
            volume_id=wish.id,
            consumer_id=self._consumer.cluster_id,
            namespace=self._twins_namespace,
            name=wish.id,
            class_name=real.name,
            access_modes=wish.access_modes,
            volume_mode=wish.volume_mode.value,
            size_bytes=wish.size_bytes,
            selected_node=node.name if node and not by_hand else "",
            claim=wish.claim,
        )
        cluster = self._clusters.local
        if not by_hand or node is None:
            return Place(cluster=cluster, spec=spec, binds=True)
        return Place(cluster=cluster, spec=spec, binds=True, choice=self._by_hand(spec, node))

    def _by_hand(self, spec: twins.TwinSpec, node: objects.Node) -> static.Choice:
        choice = static.Choice(self._consumer.volumes, spec, node, self._spoken_for)
        started = self._consumer.claims.get(spec.namespace, spec.name)
        taken = started and self._consumer.volumes.select(clusters.BY_CLAIM_UID, started.uid)
        if not taken and not choice.fitting():
            raise errors.PlacementError(
                f"no Available volume of class {spec.class_name} with node affinity to node "
                f"{node.name} fits {spec.size_bytes} bytes, {spec.volume_mode}, "
                f"{','.join(spec.access_modes)}; add one there, or choose another node"
            )
        return choice

    def real_class(self, wanted: str) -> objects.StorageClass:
        """Return the class behind a virtual one in this cluster; empty means its default.

        Raises:
            errors.PreconditionError: there is none, or it is virtual itself.
        """
        if wanted:
            real = self._consumer.classes.get("", wanted)
            if real is None:
                raise errors.PreconditionError(
                    f"StorageClass {wanted}, which parameter {parameters.LOCAL_CLASS} names, does "
                    "not exist; create it, or name another in a new virtual StorageClass"
                )
        else:
            real = classes.find_default(self._consumer.classes.all())
            if real is None:
                raise errors.PreconditionError(
                    "the cluster has no default StorageClass; mark one as default, or name one in "
                    f"parameter {parameters.LOCAL_CLASS} of the virtual StorageClass"
                )
        if negotiation.is_virtual(real.provisioner, self._driver):
            raise errors.PreconditionError(
                f"StorageClass {real.name} is virtual itself (provisioner {real.provisioner}); "
                f"name a real one in parameter {parameters.LOCAL_CLASS}"
            )
        return real

    def _node(self, value: str) -> objects.Node:
        found = self._consumer.nodes.select(clusters.BY_NODE_KEY, value)
        if not found:
            raise errors.PlacementError(
                f"no node has label {names.NODE_KEY}={value} any more; the pod needs another node"
            )
        return found[0]

    async def _remote(self, wish: Wish, cluster_id: str) -> Place:
        cluster = await self._clusters.ready(cluster_id)
        claim = wish.claim
        if claim is None:
            raise errors.PreconditionError(
                f"a volume in cluster {cluster_id} is named after its claim, which the provisioner "
                "did not tell; start csi-provisioner with --extra-create-metadata"
            )
        if cluster is None or cluster.spec is None:
            raise self._out_of_reach(claim, cluster_id, "it has no connection")
        namespace = negotiation.choose_namespace(
            cluster, cluster.spec, self._consumer.cluster_id, claim.namespace
        )
        if not await cluster.claims.ready(namespace):
            raise self._out_of_reach(claim, cluster_id, "its watch is broken")
        class_name, waits = negotiation.choose_class(
            *(cluster, claim, wish.parameters.remote_class, self._driver),
            begun=self._attempts.begun(claim, cluster_id),
        )
        modes = negotiation.choose_access_modes(claim)
        real = cluster.classes.get("", class_name) if cluster.classes is not None else None
        if real is not None:
            access_modes.refuse_beforehand(real, modes, wish.volume_mode.value, cluster_id)
        logger.info(
            "claim %s goes to %s/%s of cluster %s with class %s",
            *(claim.reference, namespace, claim.name, cluster_id, class_name),
        )
        spec = twins.TwinSpec(
            volume_id=wish.id,
            consumer_id=self._consumer.cluster_id,
            namespace=namespace,
            name=claim.name,
            class_name=class_name,
            access_modes=modes,
            volume_mode=wish.volume_mode.value,
            size_bytes=wish.size_bytes,
            claim=claim,
        )
        return Place(cluster=cluster, spec=spec, binds=not waits)

    def _out_of_reach(self, claim: objects.Claim, cluster_id: str, why: str) -> errors.Error:
        """Only a claim of which nothing was ever sent there may be scheduled elsewhere."""
        text = (
            f"cluster {cluster_id} cannot be reached ("
            f"{self._clusters.trouble(cluster_id) or why}); see RemoteCluster {cluster_id}"
        )
        if self._attempts.begun(claim, cluster_id):
            return errors.OutcomeUnknownError(f"{text}; claim {claim.reference} may exist there")
        return errors.PlacementError(text)
