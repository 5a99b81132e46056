"""What a call becomes on its way to a real driver: decisions, and nothing that sends.

The real driver is to see what kubelet would have sent it for the real volume,
had the pod named that: its own handle, staging path, attributes, filesystem and
access mode. Only the target path is the virtual volume's.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from csi_liqo.model import source, volumes
from csi_liqo.service.node import journal, requests

POD_INFO: Final = (
    "csi.storage.k8s.io/pod.name",
    "csi.storage.k8s.io/pod.namespace",
    "csi.storage.k8s.io/pod.uid",
    "csi.storage.k8s.io/serviceAccount.name",
    "csi.storage.k8s.io/ephemeral",
)
"""What kubelet adds to volume_context at publish where the CSIDriver says podInfoOnMount.

Service account tokens are no part of it: their audiences are the real CSIDriver's, and
kubelet asked for ours.
"""

UNCERTAIN: Final = frozenset({1, 4, 8, 10, 14})
"""CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED and UNAVAILABLE, by number.

After one of them kubelet takes the volume for half mounted and undoes it; after any
other it forgets the volume (kubernetes v1.37.2, csi_client.go:899-920).
"""

_SINGLE_POD: Final = volumes.AccessMode.SINGLE_NODE_SINGLE_WRITER
_SINGLE_NODE: Final = volumes.AccessMode.SINGLE_NODE_MULTI_WRITER
_EITHER: Final = volumes.AccessMode.SINGLE_NODE_WRITER
_AS_KUBELET: Final = {
    "ReadWriteOnce": _SINGLE_NODE,
    "ReadWriteOncePod": _SINGLE_POD,
    "ReadOnlyMany": volumes.AccessMode.MULTI_NODE_READER_ONLY,
    "ReadWriteMany": volumes.AccessMode.MULTI_NODE_MULTI_WRITER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a real driver's node plugin advertises, by the names in NodeServiceCapability."""

    stages: bool = False
    expands: bool = False
    single_node_multi_writer: bool = False
    mount_group: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the volume capability becomes; the last three matter to filesystems only."""

    access_mode: volumes.AccessMode
    fs_type: str
    mount_flags: tuple[str, ...]
    mount_group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to change in a call's message; None leaves a field as it came.

    ``staging_path`` takes the place of one that was given, never of none.
    """

    handle: str
    staging_path: str = ""
    context: Mapping[str, str] | None = None
    use: Use | None = None


def real_of(found: source.Source) -> source.CsiSource:
    """Return the CSI part of a source of kind CSI."""
    assert found.csi is not None, "the codec gives every CSI source its part"
    return found.csi


def staging_path(found: source.Source, kubelet_dir: str) -> str:
    """Return where kubelet itself would stage the real volume.

    Drivers rely on it: some take their staged volumes from there after a restart, some
    mount that folder of kubelet's only (kubernetes v1.37.2, csi_attacher.go:598-623 for
    filesystems, csi_block.go:60-63 for block).
    """
    real = real_of(found)
    folder = posixpath.join(kubelet_dir, "plugins/kubernetes.io/csi")
    if found.volume_mode is source.VolumeMode.BLOCK:
        return posixpath.join(folder, "volumeDevices/staging", real.persistent_volume)
    hashed = hashlib.sha256(real.handle.encode()).hexdigest()
    return posixpath.join(folder, real.driver, hashed, "globalmount")


def plan_stage(
    request: requests.StageRequest, record: journal.Record, abilities: Abilities
) -> Plan:
    """Plan a NodeStageVolume; kubelet gives no pod info to it."""
    real = real_of(record.source)
    return Plan(
        handle=real.handle,
        staging_path=record.real_staging_path,
        context=real.attributes,
        use=use_of(record.source, request.capability, abilities),
    )


def plan_publish(
    request: requests.PublishRequest, record: journal.Record, abilities: Abilities
) -> Plan:
    """Plan a NodePublishVolume."""
    real = real_of(record.source)
    told = {}
    if real.pod_info:
        told = {key: request.context[key] for key in POD_INFO if key in request.context}
    return Plan(
        handle=real.handle,
        staging_path=_staged_at(record, abilities),
        context={**real.attributes, **told},
        use=use_of(record.source, request.capability, abilities),
    )


def plan_known(record: journal.Record, abilities: Abilities) -> Plan:
    """Plan a call that brings no more than an id and paths."""
    handle = real_of(record.source).handle
    return Plan(handle=handle, staging_path=_staged_at(record, abilities))


def plan_expand(
    record: journal.Record, capability: volumes.VolumeCapability | None, abilities: Abilities
) -> Plan:
    """Plan a NodeExpandVolume, whose capability may be absent."""
    use = None if capability is None else use_of(record.source, capability, abilities)
    handle = real_of(record.source).handle
    return Plan(handle=handle, staging_path=_staged_at(record, abilities), use=use)


def use_of(found: source.Source, capability: volumes.VolumeCapability, abilities: Abilities) -> Use:
    """Return the use of the real volume that a use of the virtual one means.

    Mount flags of the virtual class come after the real volume's own. The group goes to a
    driver that asks for it, no other could do anything with it.
    """
    more = tuple(flag for flag in capability.mount_flags if flag not in found.mount_options)
    return Use(
        access_mode=access_mode(found, capability.access_mode, abilities),
        fs_type=found.fs_type,
        mount_flags=(*found.mount_options, *more),
        mount_group=capability.mount_group if abilities.mount_group else "",
    )


def access_mode(
    found: source.Source, asked: volumes.AccessMode, abilities: Abilities
) -> volumes.AccessMode:
    """Return the mode kubelet would name: of the real volume's first, in the driver's words.

    Only a driver with SINGLE_NODE_MULTI_WRITER knows one pod from one node
    (kubernetes v1.37.2, csi_client.go:518-547).
    """
    modes = real_of(found).access_modes
    wanted = _AS_KUBELET.get(modes[0], asked) if modes else asked
    if abilities.single_node_multi_writer:
        return _SINGLE_NODE if wanted is _EITHER else wanted
    return _EITHER if wanted in (_SINGLE_POD, _SINGLE_NODE) else wanted


def _staged_at(record: journal.Record, abilities: Abilities) -> str:
    """A driver that does not stage is given no staging path, as kubelet does."""
    return record.real_staging_path if abilities.stages else ""
