"""Volumes of a real CSI driver: every call is passed through to that driver's own socket.

The journal is written before the first call that may leave something behind, and
removed after the real driver has undone all. The real driver's answer is passed
on with its own code, because only it knows what it left behind.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from csi_liqo.model import errors, source, volumes
from csi_liqo.service.node import forwarding, journal, ports, requests, work

logger = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class RealNode(Generic[T_co]):
    """A real driver's node plugin, and the call that is to be sent to it.

    ``send`` sends the call, changed as planned, within its caller's time, and returns the
    answer; it raises errors.RealDriverError where the real driver refused, and
    errors.OutcomeUnknownError where that went away meanwhile.
    """

    abilities: forwarding.Abilities
    send: Callable[[forwarding.Plan], Awaitable[T_co]]


class Call(Protocol[T_co]):
    """A call that came in and may be sent on; whole, with fields nobody here reads."""

    def to(self, driver: str) -> AbstractAsyncContextManager[RealNode[T_co]]:
        """Connect to a real driver.

        Raises:
            errors.OutcomeUnknownError: it is not on this node, or does not answer.
        """


class PassThrough:
    """The use cases for volumes of a real CSI driver."""

    def __init__(self, host: ports.Host, records: journal.Journal, *, kubelet_dir: str) -> None:
        self._host = host
        self._records = records
        self._kubelet_dir = kubelet_dir
        # Volumes whose record was first written here and that were never staged since.
        self._attempted: set[str] = set()

    async def stage(
        self,
        claim: work.Claim,
        request: requests.StageRequest,
        found: source.Source,
        call: Call[object],
    ) -> None:
        """Have the real driver stage its volume, where it does."""
        record = self._record(request.volume_id, found, request.staging_path)
        async with call.to(forwarding.real_of(found).driver) as real:
            plan = forwarding.plan_stage(request, record, real.abilities)
            await claim.run(functools.partial(self._begin, record, real.abilities))
            if real.abilities.stages:
                try:
                    await real.send(plan)
                except errors.RealDriverError as error:
                    if error.code not in forwarding.UNCERTAIN:
                        await claim.run(functools.partial(self._forget, record))
                    raise
            self._attempted.discard(request.volume_id)

    async def publish(
        self,
        claim: work.Claim,
        request: requests.PublishRequest,
        found: source.Source,
        call: Call[object],
    ) -> forwarding.Abilities:
        """Have the real driver publish its volume; also again, which some rely on.

        Return what the driver advertises.
        """
        record = self._record(request.volume_id, found, request.staging_path)
        async with call.to(forwarding.real_of(found).driver) as real:
            plan = forwarding.plan_publish(request, record, real.abilities)
            if not self._records.holds(record):
                await claim.run(functools.partial(self._records.write, record))
            await real.send(plan)
            return real.abilities

    async def unpublish(self, record: journal.Record, call: Call[object]) -> None:
        """Have the real driver unpublish; it removes the target."""
        await self.ask(record, call)

    async def unstage(self, claim: work.Claim, record: journal.Record, call: Call[object]) -> None:
        """Have the real driver unstage, remove what kubelet would, and forget the volume."""
        async with call.to(forwarding.real_of(record.source).driver) as real:
            if real.abilities.stages:
                await real.send(forwarding.plan_known(record, real.abilities))
        await claim.run(functools.partial(self._finish, record))

    async def ask(self, record: journal.Record, call: Call[T_co]) -> T_co:
        """Send on a call that brings no more than an id and paths; return the answer."""
        async with call.to(forwarding.real_of(record.source).driver) as real:
            return await real.send(forwarding.plan_known(record, real.abilities))

    async def expand(
        self,
        record: journal.Record,
        capability: volumes.VolumeCapability | None,
        call: Call[T_co],
    ) -> T_co | None:
        """Have the real driver grow its volume on this node; return its answer.

        None: it does nothing here. To kubelet that is success: it asks a driver for its
        ability first and takes the lack of it for the end of the expansion (kubernetes
        v1.37.2, csi/expander.go:60-73), while UNIMPLEMENTED would keep the pod from starting.
        """
        async with call.to(forwarding.real_of(record.source).driver) as real:
            if not real.abilities.expands:
                return None
            return await real.send(forwarding.plan_expand(record, capability, real.abilities))

    def _record(self, volume_id: str, found: source.Source, staging_path: str) -> journal.Record:
        return journal.Record(
            volume_id=volume_id,
            source=found,
            staging_path=staging_path,
            real_staging_path=forwarding.staging_path(found, self._kubelet_dir),
        )

    def _begin(self, record: journal.Record, abilities: forwarding.Abilities) -> None:
        known = self._records.find(record.volume_id)
        if known is None:
            self._attempted.add(record.volume_id)
        elif known.real_staging_path not in ("", record.real_staging_path):
            self._check_moved(known)
        self._records.write(record)
        if abilities.stages:
            self._host.ensure_folder(record.real_staging_path)

    def _check_moved(self, known: journal.Record) -> None:
        """Keep the record of what is still staged: nobody else knows how to undo it."""
        if self._host.mounted(known.real_staging_path) is not None:
            raise errors.PreconditionError(
                f"volume {known.volume_id} has another real volume now and the one before is "
                f"still staged at {known.real_staging_path}: drain this node's pods of the volume"
            )

    def _forget(self, record: journal.Record) -> None:
        """Undo ``_begin`` after a final refusal, which kubelet follows with no Unstage.

        Not for a volume that may have been staged before: its Unstage will come, and needs
        the record. A failure here is not told, the real driver's refusal is.
        """
        if record.volume_id not in self._attempted:
            return
        try:
            if self._host.mounted(record.real_staging_path) is None:
                self._finish(record)
        except (OSError, errors.Error) as error:
            logger.warning("what volume %s left stays: %s", record.volume_id, error)

    def _finish(self, record: journal.Record) -> None:
        block = record.source.volume_mode is source.VolumeMode.BLOCK
        # As kubelet: the folder named after the volume goes too (csi_mounter.go:583-609).
        self._host.remove_folder(record.real_staging_path, levels=1 if block else 2)
        self._records.remove(record.volume_id)
        self._attempted.discard(record.volume_id)
