"""Making a virtual volume again for a twin that kept its data.

What decides where bytes are (source, home, size) is taken from the twin as it is found
now, by the same rules as in CreateVolume; what it merely remembers is believed only as far
as it can do no harm. The volume is reserved for one claim from the first moment: a free
one of the virtual class would be bound to whichever claim comes next.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.model import errors, ids, kept, names, objects, quantities
from csi_liqo.service.controller import clusters, description, inventory, negotiation

logger = logging.getLogger(__name__)

_FS_TYPE: Final = "csi.storage.k8s.io/fstype"
_DEFAULT_FS_TYPE: Final = "ext4"
"""What the provisioner gives a file system volume; kubelet applies a pod's group only then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which twin to adopt, and what it cannot say itself.

    ``claim`` is ``namespace/name`` of the claim to reserve the volume for; empty: the one it
    was made for. ``storage_class`` and ``reclaim_policy`` are empty for what it had.
    """

    cluster_id: str
    namespace: str
    name: str
    claim: str = ""
    storage_class: str = ""
    reclaim_policy: str = ""

    @classmethod
    def of(cls, cluster_id: str, reference: str, **more: str) -> Wish:
        """Return the wish for a twin given as a person writes it.

        Raises:
            errors.InvalidRequestError: it is not of the form namespace/name.
        """
        namespace, _, name = reference.partition("/")
        if not objects.is_object_name(namespace) or not objects.is_object_name(name):
            raise errors.InvalidRequestError(f"{reference!r} is not of the form NAMESPACE/TWIN")
        return cls(cluster_id=cluster_id, namespace=namespace, name=name, **more)

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.name}"


class Adoption:
    """The use case; to repeat it is harmless."""

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        listed: inventory.Inventory,
        driver: str,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._inventory = listed
        self._driver = driver

    async def adopt(self, wish: Wish) -> objects.PersistentVolume:
        """Return the virtual volume of a retained or abandoned twin, reserved for a claim.

        Raises:
            errors.VolumeNotFoundError: there is no such twin.
            errors.PreconditionError: it is not ours, in use, or something must be named.
            errors.ComeBackError: its cluster is out of reach, or the outcome is unknown.
        """
        try:
            return await self._adopt(wish)
        except errors.ApiForbiddenError as error:
            raise errors.PreconditionError(f"adopting {wish.reference}: {error}") from error
        except errors.ApiError as error:
            raise errors.OutcomeUnknownError(
                f"adopting {wish.reference} was interrupted ({error}); adopt it again"
            ) from error

    async def _adopt(self, wish: Wish) -> objects.PersistentVolume:
        cluster, twin = await self.find(wish)
        if twin.deleting:
            raise errors.PreconditionError(
                f"twin {wish.reference} in cluster {cluster.id} is being deleted, which cannot be "
                f"taken back; its finalizer {names.TWIN_FINALIZER} holds its data. Set its volume "
                f"{twin.spec.volume_name} to Retain there before anything else"
            )
        owner = self._owner(wish, cluster, twin)
        entry = self._inventory.entry(cluster, twin)
        if entry.volume is not None:
            fresh = await self._consumer.volumes.read("", entry.volume.name)
            if fresh is not None:
                return await self._reserve(fresh, owner)
        elif entry.state is inventory.State.IN_USE:
            raise errors.PreconditionError(
                f"twin {twin.reference} belongs to claim {entry.claim}, which exists and waits for "
                "its volume; there is nothing to adopt"
            )
        manifest = self._forge(wish, cluster, twin, owner)
        try:
            made = await self._consumer.volumes.create("", manifest)
        except errors.ApiAlreadyExistsError:
            return await self._made_before(manifest, owner)
        logger.info("adopted twin %s of cluster %s as %s", twin.reference, cluster.id, made.name)
        return made

    async def find(self, wish: Wish) -> tuple[clusters.Cluster, objects.Claim]:
        """Return the twin as its API server has it, if it may be adopted or deleted at all.

        Raises: as ``adopt``.
        """
        cluster = await self._clusters.ready(wish.cluster_id)
        if cluster is None or not await cluster.claims.ready(wish.namespace):
            trouble = self._clusters.trouble(wish.cluster_id) or "it is not connected"
            raise errors.OutcomeUnknownError(
                f"cluster {wish.cluster_id} cannot be reached ({trouble})"
            )
        twin = await cluster.claims.read(wish.namespace, wish.name)
        if twin is None:
            raise errors.VolumeNotFoundError(
                f"there is no claim {wish.reference} in cluster {cluster.id}"
            )
        own = self._consumer.cluster_id
        if twin.consumer != own or not twin.volume_id:
            raise errors.PreconditionError(
                f"claim {wish.reference} in cluster {cluster.id} is no twin of cluster {own}: it "
                f"lacks label {names.CONSUMER_LABEL}={own} or {names.VOLUME_LABEL}"
            )
        if not twin.handed_over:
            raise errors.PreconditionError(
                f"twin {wish.reference} was never handed over, so it holds no data; it is "
                "collected by itself"
            )
        return cluster, twin

    def _owner(self, wish: Wish, cluster: clusters.Cluster, twin: objects.Claim) -> tuple[str, str]:
        """Return namespace and name of the claim that gets the volume.

        In a provider the pod asks for the twin by its own claim's name, in the mapped namespace.
        """
        reference = wish.claim or twin.metadata.annotations.get(names.CLAIM_ANNOTATION, "")
        namespace, _, name = reference.partition("/")
        if not objects.is_object_name(namespace) or not objects.is_object_name(name):
            raise errors.PreconditionError(
                f"twin {twin.reference} does not say for which claim it was made; name one as "
                "namespace/name"
            )
        if cluster.spec is not None:
            mapped = negotiation.map_namespace(cluster.spec, self._consumer.cluster_id, namespace)
            if (mapped, name) != (twin.namespace, twin.name):
                raise errors.PreconditionError(
                    f"a pod of claim {reference} asks cluster {cluster.id} for "
                    f"{mapped or 'no namespace'}/{name}, and the twin is {twin.reference}; name a "
                    "claim of its name in a namespace that is mapped to its namespace"
                )
        claim = self._consumer.claims.get(namespace, name)
        if claim is not None and claim.spec.volume_name:
            bound = self._consumer.volumes.get("", claim.spec.volume_name)
            handle = bound.spec.csi.volume_handle if bound and bound.spec.csi else ""
            if handle != twin.volume_id:
                raise errors.PreconditionError(
                    f"claim {reference} is bound to volume {claim.spec.volume_name}; name another "
                    "claim, or delete that one first"
                )
        return namespace, name

    async def _reserve(
        self, volume: objects.PersistentVolume, owner: tuple[str, str]
    ) -> objects.PersistentVolume:
        """Reserve a virtual volume that still exists; nothing is done where it is already."""
        reference = volume.spec.claim_ref
        now = (reference.namespace, reference.name) if reference is not None else None
        if volume.status.phase == "Bound" or (reference is not None and self._lives(reference)):
            if now == owner:
                return volume
            raise errors.PreconditionError(
                f"volume {volume.name} is in use by claim {'/'.join(now or ('', ''))}"
            )
        goes = volume.deleting or volume.spec.persistent_volume_reclaim_policy != "Retain"
        if goes and reference is not None and reference.uid:
            raise errors.PreconditionError(
                f"volume {volume.name} was released and is being deleted; set its "
                "persistentVolumeReclaimPolicy to Retain first to keep its data"
            )
        if reference is not None and now == owner and not reference.uid:
            return volume
        version = volume.metadata.resource_version
        patch: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/spec/claimRef", "value": _claim_ref(owner)},
        ]
        return await self._consumer.volumes.patch("", volume.name, patch)

    def _lives(self, reference: objects.ClaimReference) -> bool:
        claim = self._consumer.claims.get(reference.namespace, reference.name)
        return claim is not None and claim.uid == reference.uid

    async def _made_before(
        self, manifest: dict[str, Any], owner: tuple[str, str]
    ) -> objects.PersistentVolume:
        name = manifest["metadata"]["name"]
        found = await self._consumer.volumes.read("", name)
        source = found.spec.csi if found is not None else None
        wanted = manifest["spec"]["csi"]
        if (
            found is None
            or source is None
            or source.volume_attributes != wanted["volumeAttributes"]
        ):
            raise errors.PreconditionError(
                f"a PersistentVolume {name} that does not name this twin exists already"
            )
        return await self._reserve(found, owner)

    def _forge(
        self, wish: Wish, cluster: clusters.Cluster, twin: objects.Claim, owner: tuple[str, str]
    ) -> dict[str, Any]:
        """Return the virtual volume as it was, or as its class would make it now."""
        memory = kept.kept_of(twin) or kept.Kept(name="")
        volume = description.describe(self._consumer, cluster, twin)
        class_name = self._class_name(wish, twin, memory)
        known = self._consumer.classes.get("", class_name)
        if known is not None and known.provisioner != self._driver:
            raise errors.PreconditionError(
                f"StorageClass {class_name} is of provisioner {known.provisioner}, not of "
                f"{self._driver}; name a virtual class"
            )
        source: dict[str, Any] = {
            "driver": self._driver,
            "volumeHandle": volume.id,
            "volumeAttributes": dict(volume.context),
        }
        options: tuple[str, ...] = ()
        annotations = {"pv.kubernetes.io/provisioned-by": self._driver}
        if twin.spec.volume_mode == "Filesystem":
            asked = known.parameters.get(_FS_TYPE) if known else None
            source["fsType"] = memory.fs_type or asked or _DEFAULT_FS_TYPE
        if cluster.local:  # only there is the memory kept where no tenant can write
            options = memory.mount_options if memory.name else known.mount_options if known else ()
            source |= memory.secrets
            annotations = {**memory.annotations, **annotations}
            if not memory.name and known is not None:
                _refuse_secrets(known)
        policy = wish.reclaim_policy or memory.persistent_volume_reclaim_policy
        policy = policy or (known.reclaim_policy if known is not None else "Retain")
        spec = {
            "capacity": {"storage": quantities.to_text(volume.capacity_bytes)},
            "accessModes": list(memory.access_modes or twin.spec.access_modes),
            "volumeMode": twin.spec.volume_mode,
            "storageClassName": class_name,
            "persistentVolumeReclaimPolicy": policy,
            "claimRef": _claim_ref(owner),
            "nodeAffinity": {"required": {"nodeSelectorTerms": [*map(_term, volume.topology)]}},
            "csi": source,
        }
        if options:
            spec["mountOptions"] = list(options)
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": _name_of(twin, memory),
                "labels": memory.labels if cluster.local else {},
                "annotations": annotations,
            },
            "spec": spec,
        }

    def _class_name(self, wish: Wish, twin: objects.Claim, memory: kept.Kept) -> str:
        said = twin.metadata.annotations.get(names.VIRTUAL_CLASS_ANNOTATION, "")
        name = wish.storage_class or memory.storage_class_name or said
        if not name:
            raise errors.PreconditionError(
                f"twin {twin.reference} does not say of which virtual class its claim was; name it"
            )
        return name


def _claim_ref(owner: tuple[str, str]) -> dict[str, str]:
    """A reservation by name: the volume controller fills in the uid when it binds."""
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**kind, "namespace": owner[0], "name": owner[1]}


def _term(segment: Any) -> dict[str, Any]:
    rules = [{"key": k, "operator": "In", "values": [v]} for k, v in sorted(segment.items())]
    return {"matchExpressions": rules}


def _name_of(twin: objects.Claim, memory: kept.Kept) -> str:
    """The name that the volume had; its id where that is not known for certain."""
    if memory.name and ids.volume_id(memory.name) == twin.volume_id:
        return memory.name
    if not objects.is_object_name(twin.volume_id):
        raise errors.PreconditionError(
            f"label {names.VOLUME_LABEL} of twin {twin.reference} is no volume id"
        )
    return twin.volume_id


def _refuse_secrets(known: objects.StorageClass) -> None:
    """A volume without the secrets that its class names could not be mounted."""
    named = sorted(key for key in known.parameters if key.endswith("-secret-name"))
    if named:
        raise errors.PreconditionError(
            f"StorageClass {known.name} gives its volumes secrets ({', '.join(named)}), and what "
            "the lost volume had is not remembered; make its PersistentVolume by hand"
        )
