"""Mounting hostPath and local volumes: the blocking steps of each use case.

Every operation looks at what is there and does what is missing, so it can be
repeated after any crash. Refusals come before the journal is written: to
kubelet most codes mean "nothing is mounted, nothing to undo", and it never
calls Unstage or Unpublish after one (kubernetes v1.37.2, csi_client.go:899-920).
After it only "come back" is honest.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Final

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import journal, mounting, ports, requests

logger = logging.getLogger(__name__)

_STAGED: Final = re.compile(r"/plugins/kubernetes\.io/csi/[^/]+/[0-9a-f]{64}/globalmount$")


class Mounts:
    """What this driver mounts itself. An ``OSError`` may escape from every method."""

    def __init__(self, host: ports.Host, records: journal.Journal, *, node_name: str) -> None:
        self._host = host
        self._records = records
        self._node_name = node_name
        self._lost: dict[str, set[str]] = {}

    def stage(self, request: requests.StageRequest, found: source.Source) -> None:
        """Mount a device's filesystem; a directory or raw device needs nothing."""
        options = mounting.options_of(found, request.capability)
        record = journal.Record(
            volume_id=request.volume_id, source=found, staging_path=request.staging_path
        )
        with self._source(request.volume_id, found) as place:
            way = mounting.choose_way(found, place)
            if way is not mounting.Way.FILESYSTEM:
                self._records.write(record)
                return
            if self._is_staged(request.staging_path, place):
                self._records.write(record)
                return
            existing = self._host.filesystem_of(place)
            fs_type = mounting.choose_filesystem(
                found, request.capability, existing, read_only="ro" in options
            )
            self._records.write(record)
            with _nothing_final(request.volume_id):
                if not existing:
                    self._host.format(place, fs_type)
                self._host.mount(place, request.staging_path, fs_type, options)
                if not self._is_staged(request.staging_path, place):
                    raise errors.OutcomeUnknownError(
                        f"{place.name} was mounted at {request.staging_path} and is not there"
                    )

    def publish(self, request: requests.PublishRequest, found: source.Source) -> None:
        """Bind the volume to the target."""
        options = mounting.options_of(found, request.capability)
        read_only = mounting.is_read_only(options, request.capability, read_only=request.read_only)
        record = journal.Record(
            volume_id=request.volume_id, source=found, staging_path=request.staging_path
        )
        with self._source(request.volume_id, found) as real:
            way = mounting.choose_way(found, real)
            wanted = mounting.bind_options(way, options, read_only=read_only)
            with self._to_publish(request, way, real) as place:
                if self._is_published(request, place, read_only=read_only):
                    return
                self._check_single(request, place)
                self._records.write(record)
                self._host.ensure_target(request.target_path, place.kind)
                with _nothing_final(request.volume_id):
                    self._host.bind(place, request.target_path, wanted)

    def unpublish(self, volume_id: str, target_path: str, *, known: bool) -> None:
        """Unmount and remove the target.

        Not ``known``: the volume's record is lost, or there never was one. It may be a real
        driver's, whose handle nobody can tell any more, so what kubelet could do alone is
        done: a pod that cannot end for ever, and a node that cannot be drained, are worse than
        a driver that finds its volume unmounted, which a reboot does to it too.
        """
        if not known:
            self._find_staged(volume_id, target_path)
        self._host.unmount(target_path)
        self._host.remove_target(target_path)

    def unstage(self, volume_id: str, staging_path: str) -> None:
        """Unmount what was staged, and forget the volume."""
        for left in sorted(self._lost.pop(volume_id, ())):
            logger.warning("unmounting %s of volume %s, whose record is lost", left, volume_id)
            self._host.unmount(left)
        self._host.unmount(staging_path)
        self._records.remove(volume_id)

    def _find_staged(self, volume_id: str, target_path: str) -> None:
        """Remember where a real driver staged what the target shows, for Unstage.

        Not unmounted at once: other pods may use it, and kubelet may publish it again
        without staging it.
        """
        if self._host.mounted(target_path) is None:
            return
        with self._host.staged(target_path) as place:
            shown = () if place is None else self._host.mounted_elsewhere(place, target_path)
        found = {path for path in shown if _STAGED.search(path)}
        if found:
            self._lost.setdefault(volume_id, set()).update(found)

    def usage(self, record: journal.Record, path: str) -> requests.Usage:
        """Return how full the volume at a path is.

        Raises:
            errors.VolumeNotFoundError: it is not at this path.
        """
        volume_id = record.volume_id
        nowhere = errors.VolumeNotFoundError(f"volume {volume_id} is not at {path}")
        mounted = self._host.mounted(path)
        if mounted is None:
            raise nowhere
        with self._source(volume_id, record.source) as place:
            way = mounting.choose_way(record.source, place)
            if way is mounting.Way.FILESYSTEM:
                shows = mounted.device_number == place.device_number
            else:
                shows = mounted.identity == place.identity
            if not shows:
                raise nowhere
            kind = (
                ports.PlaceKind.BLOCK_DEVICE
                if way is mounting.Way.DEVICE
                else ports.PlaceKind.DIRECTORY
            )
        return self._host.usage(path, kind)

    def check_expanded(self, record: journal.Record) -> None:
        """Return when a volume has all the room its place gives it.

        Raises:
            errors.PreconditionError: a filesystem on a device, which is not grown here.
        """
        with self._source(record.volume_id, record.source) as place:
            if mounting.choose_way(record.source, place) is mounting.Way.FILESYSTEM:
                raise errors.PreconditionError(
                    f"the filesystem on {place.name} of volume {record.volume_id} is not grown by "
                    "this driver: grow device and filesystem by hand"
                )

    @contextlib.contextmanager
    def _source(self, volume_id: str, found: source.Source) -> Iterator[ports.Place]:
        with self._host.source(found.path) as place:
            if place is None:
                raise errors.VolumeNotFoundError(
                    f"the {found.kind.value} source {found.path} of volume {volume_id} does not "
                    f"exist on node {self._node_name}: bring it back, or delete the claim; an "
                    "empty one is never made in its place"
                )
            yield place

    def _is_staged(self, staging_path: str, device: ports.Place) -> bool:
        mounted = self._host.mounted(staging_path)
        if mounted is None:
            return False
        if mounted.device_number != device.device_number:
            raise errors.IncompatibleVolumeError(
                f"another filesystem than that of {device.name} is mounted at {staging_path}"
            )
        return True

    @contextlib.contextmanager
    def _to_publish(
        self, request: requests.PublishRequest, way: mounting.Way, real: ports.Place
    ) -> Iterator[ports.Place]:
        """Hold what the pod is to see: the real volume itself, or its staged filesystem."""
        if way is not mounting.Way.FILESYSTEM:
            yield real
            return
        if not self._is_staged(request.staging_path, real):
            raise errors.PreconditionError(
                f"volume {request.volume_id} is not mounted at {request.staging_path}: "
                "stage it first"
            )
        with self._host.staged(request.staging_path) as place:
            if place is None:
                raise errors.OutcomeUnknownError(f"{request.staging_path} went away")
            yield place

    def _is_published(
        self, request: requests.PublishRequest, place: ports.Place, *, read_only: bool
    ) -> bool:
        mounted = self._host.mounted(request.target_path)
        if mounted is None:
            return False
        if mounted.identity != place.identity:
            raise errors.IncompatibleVolumeError(
                f"something else than volume {request.volume_id} is mounted at "
                f"{request.target_path}"
            )
        if mounted.read_only != (read_only or place.read_only):
            raise errors.IncompatibleVolumeError(
                f"volume {request.volume_id} is published at {request.target_path} "
                f"{'read-only' if mounted.read_only else 'writable'} already"
            )
        return True

    def _check_single(self, request: requests.PublishRequest, place: ports.Place) -> None:
        """A volume for one pod has one target (CSI spec, NodePublishVolume's table)."""
        single = volumes.AccessMode.SINGLE_NODE_SINGLE_WRITER
        if request.capability.access_mode is not single:
            return
        others = self._host.mounted_elsewhere(place, request.target_path)
        if others:
            raise errors.PreconditionError(
                f"volume {request.volume_id} may be used by one pod at a time and is published "
                f"at {others[0]}"
            )


@contextlib.contextmanager
def _nothing_final(volume_id: str) -> Iterator[None]:
    """From the first mount or format on, a refusal must not read as "nothing was done"."""
    try:
        yield
    except errors.ComeBackError:
        raise
    except errors.Error as error:
        raise errors.OutcomeUnknownError(f"volume {volume_id}: {error}") from error
