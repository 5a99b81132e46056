"""Staging and publishing volumes on this node.

Every operation looks at what is there and does what is missing, so it can be
repeated after any crash. Refusals come before the journal is written: to
kubelet most codes mean "nothing is mounted, nothing to undo", and it never
calls Unstage or Unpublish after one (kubernetes v1.37.2, csi_client.go:899-920).
After it only "come back" is honest.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import journal, mounting, ports, requests, work

logger = logging.getLogger(__name__)

THREADS: Final = 16
"""Volumes worked on at the same time."""
STATS_THREADS: Final = 4
"""Of their own: a question about a disk that hangs must not keep others from being mounted."""

T = TypeVar("T")


class Volumes:
    """The node's use cases."""

    def __init__(
        self, host: ports.Host, records: journal.Journal, *, node_name: str, kubelet_dir: str
    ) -> None:
        self._host = host
        self._records = records
        self._node_name = node_name
        self._kubelet_dir = kubelet_dir
        self._work = work.Work(name="volumes", threads=THREADS)
        self._stats = work.Work(name="stats", threads=STATS_THREADS)

    async def stage(self, request: requests.StageRequest) -> None:
        """Make a volume ready for its pods on this node.

        Raises:
            errors.VolumeNotFoundError: its source is missing; it is never created here.
            errors.PreconditionError: its source cannot serve it.
            errors.IncompatibleVolumeError: something else is mounted at the staging path.
            errors.ComeBackError: call again.
        """
        await self._run(self._work, request.volume_id, functools.partial(self._stage, request))

    async def unstage(self, volume_id: str, staging_path: str) -> None:
        """Undo ``stage``; a volume never staged is unstaged."""
        undo = functools.partial(self._unstage, volume_id, staging_path)
        await self._run(self._work, volume_id, undo)

    async def publish(self, request: requests.PublishRequest) -> None:
        """Show a volume to one pod.

        Raises:
            as ``stage``; also errors.PreconditionError where it must be staged first, or may
            have one pod only and has another.
        """
        await self._run(self._work, request.volume_id, functools.partial(self._publish, request))

    async def unpublish(self, volume_id: str, target_path: str) -> None:
        """Undo ``publish`` and remove the target; a volume never published is unpublished."""
        undo = functools.partial(self._unpublish, target_path)
        await self._run(self._work, volume_id, undo)

    async def usage(self, volume_id: str, path: str) -> requests.Usage:
        """Return how full a volume is.

        Raises:
            errors.VolumeNotFoundError: it is not on this node, or not at this path.
        """
        look = functools.partial(self._usage, volume_id, path)
        return await self._run(self._stats, volume_id, look)

    def close(self) -> None:
        """Take no more work."""
        self._work.close()
        self._stats.close()

    async def _run(self, pool: work.Work, volume_id: str, function: Callable[[], T]) -> T:
        def with_meaning() -> T:
            try:
                return function()
            except OSError as error:
                raise errors.OutcomeUnknownError(
                    f"volume {volume_id} on node {self._node_name}: {error}"
                ) from error

        return await pool.run(volume_id, with_meaning)

    def _stage(self, request: requests.StageRequest) -> None:
        found = self._read(request.volume_id, request.context, request.capability)
        self._check_path(request.staging_path, "staging_target_path")
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

    def _publish(self, request: requests.PublishRequest) -> None:
        found = self._read(request.volume_id, request.context, request.capability)
        if not request.staging_path:
            raise errors.PreconditionError("staging_target_path is missing: stage the volume first")
        self._check_path(request.staging_path, "staging_target_path")
        self._check_path(request.target_path, "target_path")
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

    def _unpublish(self, target_path: str) -> None:
        self._check_path(target_path, "target_path")
        self._host.unmount(target_path)
        self._host.remove_target(target_path)

    def _unstage(self, volume_id: str, staging_path: str) -> None:
        self._check_path(staging_path, "staging_target_path")
        self._records.check_removable(volume_id)
        self._host.unmount(staging_path)
        self._records.remove(volume_id)

    def _usage(self, volume_id: str, path: str) -> requests.Usage:
        record = self._records.read(volume_id)
        if record is None:
            raise errors.VolumeNotFoundError(
                f"volume {volume_id} is not staged on node {self._node_name}"
            )
        nowhere = errors.VolumeNotFoundError(f"volume {volume_id} is not at {path}")
        try:
            self._check_path(path, "volume_path")
        except errors.InvalidRequestError:
            raise nowhere from None
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

    def _read(
        self, volume_id: str, context: Mapping[str, str], capability: volumes.VolumeCapability
    ) -> source.Source:
        return mounting.read_source(volume_id, dict(context), capability, self._node_name)

    def _check_path(self, path: str, field: str) -> None:
        mounting.check_path(path, self._kubelet_dir, field)

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
