"""Staging and publishing volumes on this node: who does it, and one operation at a time.

hostPath and local volumes are mounted here; those of a real CSI driver are
passed through to it. Stage and Publish bring what tells them apart, the other
calls an id alone, for which the journal has it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import (
    journal,
    mounting,
    mounts,
    ownership,
    passthrough,
    ports,
    published,
    requests,
    work,
)

THREADS: Final = 16
"""Volumes worked on at the same time."""
STATS_THREADS: Final = 4
"""Of their own: a question about a disk that hangs must not keep others from being mounted."""

T = TypeVar("T")


class Volumes:
    """The node's use cases; each takes the call as it came, to send it on where needed."""

    def __init__(
        self, host: ports.Host, records: journal.Journal, *, node_name: str, kubelet_dir: str
    ) -> None:
        self._records = records
        self._node_name = node_name
        self._kubelet_dir = kubelet_dir
        self._mounts = mounts.Mounts(host, records, node_name=node_name)
        self._passthrough = passthrough.PassThrough(host, records, kubelet_dir=kubelet_dir)
        self._changes = ownership.Changes(host)
        self._published = published.Published(host)
        self._work = work.Work(name="volumes", threads=THREADS)
        self._stats = work.Work(name="stats", threads=STATS_THREADS)

    async def stage(self, request: requests.StageRequest, call: passthrough.Call[object]) -> None:
        """Make a volume ready for its pods on this node.

        Raises:
            errors.VolumeNotFoundError: its source is missing; it is never created here.
            errors.PreconditionError: its source cannot serve it.
            errors.IncompatibleVolumeError: something else is mounted at the staging path.
            errors.RealDriverError: its real driver refused.
            errors.ComeBackError: call again.
        """
        found = self._read(request.volume_id, request.context, request.capability)
        self._check_path(request.staging_path, "staging_target_path")
        with self._working(self._work, request.volume_id) as claim:
            self._published.forget_volume(request.volume_id)
            if found.csi is None:
                await claim.run(functools.partial(self._mounts.stage, request, found))
            else:
                await self._passthrough.stage(claim, request, found, call)

    async def unstage(
        self, volume_id: str, staging_path: str, call: passthrough.Call[object]
    ) -> None:
        """Undo ``stage``; a volume never staged is unstaged."""
        self._check_path(staging_path, "staging_target_path")
        with self._working(self._work, volume_id) as claim:
            record = self._records.find(volume_id)
            if record is not None and record.source.csi is not None:
                await self._passthrough.unstage(claim, record, call)
            else:
                undo = functools.partial(self._mounts.unstage, volume_id, staging_path)
                await claim.run(undo)

    async def publish(
        self, request: requests.PublishRequest, call: passthrough.Call[object]
    ) -> bool:
        """Show a volume to one pod; return False when it was shown already.

        Repeated, it reaches a real driver again where its CSIDriver asks for that.

        Raises:
            as ``stage``; also errors.PreconditionError where it must be staged first, or may
            have one pod only and has another.
        """
        found = self._read(request.volume_id, request.context, request.capability)
        if not request.staging_path:
            raise errors.PreconditionError("staging_target_path is missing: stage the volume first")
        self._check_path(request.staging_path, "staging_target_path")
        self._check_path(request.target_path, "target_path")
        again = found.csi is not None and found.csi.requires_republish
        with self._working(self._work, request.volume_id) as claim:
            done = functools.partial(self._published.is_done, request)
            if not again and self._published.has(request) and await claim.run(done):
                return False
            await self._publish(claim, request, found, call)
            if not again:
                await claim.run(functools.partial(self._published.add, request))
            return True

    async def _publish(
        self,
        claim: work.Claim,
        request: requests.PublishRequest,
        found: source.Source,
        call: passthrough.Call[object],
    ) -> None:
        group = ownership.wanted_group(request.capability)
        abilities = None
        if found.csi is None:
            await claim.run(functools.partial(self._mounts.publish, request, found))
        else:
            abilities = await self._passthrough.publish(claim, request, found, call)
        if group is not None and ownership.is_wanted(
            found, request.capability, read_only=request.read_only, abilities=abilities
        ):
            await self._changes.give(request.volume_id, request.target_path, group)

    async def unpublish(
        self, volume_id: str, target_path: str, call: passthrough.Call[object]
    ) -> None:
        """Undo ``publish`` and remove the target; a volume never published is unpublished."""
        self._check_path(target_path, "target_path")
        with self._working(self._work, volume_id) as claim:
            self._published.forget_target(target_path)
            await self._changes.stop(target_path)
            record = self._records.find(volume_id)
            if record is not None and record.source.csi is not None:
                await self._passthrough.unpublish(record, call)
            else:
                undo = functools.partial(
                    self._mounts.unpublish, volume_id, target_path, known=record is not None
                )
                await claim.run(undo)

    async def usage(
        self, volume_id: str, path: str, call: passthrough.Call[T]
    ) -> requests.Usage | T:
        """Return how full a volume is, or its real driver's own answer.

        Raises:
            errors.VolumeNotFoundError: it is not on this node, or not at this path.
        """
        with self._working(self._stats, volume_id) as claim:
            record = await claim.run(functools.partial(self._known, volume_id))
            try:
                self._check_path(path, "volume_path")
            except errors.InvalidRequestError:
                raise errors.VolumeNotFoundError(f"volume {volume_id} is not at {path}") from None
            if record.source.csi is not None:
                return await self._passthrough.ask(record, call)
            return await claim.run(functools.partial(self._mounts.usage, record, path))

    async def expand(
        self,
        volume_id: str,
        capability: volumes.VolumeCapability | None,
        call: passthrough.Call[T],
    ) -> T | None:
        """Let a volume fill the room it was given; None when nothing is to be done for it.

        Raises:
            errors.VolumeNotFoundError: it is not on this node.
            errors.PreconditionError: this driver cannot grow what it holds.
        """
        with self._working(self._work, volume_id) as claim:
            record = await claim.run(functools.partial(self._known, volume_id))
            if record.source.csi is not None:
                return await self._passthrough.expand(record, capability, call)
            await claim.run(functools.partial(self._mounts.check_expanded, record))
            return None

    def close(self) -> None:
        """Take no more work."""
        self._work.close()
        self._stats.close()
        self._changes.close()

    @contextlib.contextmanager
    def _working(self, pool: work.Work, volume_id: str) -> Iterator[work.Claim]:
        with pool.claim(volume_id) as claim:
            try:
                yield claim
            except OSError as error:
                raise errors.OutcomeUnknownError(
                    f"volume {volume_id} on node {self._node_name}: {error}"
                ) from error

    def _known(self, volume_id: str) -> journal.Record:
        record = self._records.read(volume_id)
        if record is None:
            raise errors.VolumeNotFoundError(
                f"volume {volume_id} is not staged on node {self._node_name}"
            )
        return record

    def _read(
        self, volume_id: str, context: Mapping[str, str], capability: volumes.VolumeCapability
    ) -> source.Source:
        return mounting.read_source(volume_id, dict(context), capability, self._node_name)

    def _check_path(self, path: str, field: str) -> None:
        mounting.check_path(path, self._kubelet_dir, field)
