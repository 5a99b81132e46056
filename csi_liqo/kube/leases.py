"""Which of several replicas acts: the one that holds a Lease.

The rules are client-go's. A holder writes the Lease again and again; whoever has
seen no change of it for its duration, by the own monotonic clock, takes it over. The
times in the object are for people: clocks of two machines are never compared. A
holder that cannot renew stops acting before anybody else can begin.

The official client's own election (kubernetes.aio.leaderelection, 37.0) goes by wall
clocks, waits for an answer without end and never gives a lease back.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.kube import api
from csi_liqo.model import errors

logger = logging.getLogger(__name__)

_PREFIX: Final = "/apis/coordination.k8s.io/v1"
_GIVE_BACK_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long what lasts, in seconds.

    ``duration``: without a renewal for so long, others take over. ``deadline``: a holder
    that could not renew for so long acts no more; the rest of the duration is for ending
    what it does. ``retry``: between renewals, and between looks at another's lease.
    """

    duration: float = 3.0
    deadline: float = 2.0
    retry: float = 0.75


class Election:
    """One candidate for one Lease; ``leading`` while it holds it and acts."""

    def __init__(
        self,
        calls: api.Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: Times | None = None,
    ) -> None:
        """``identity`` tells this candidate from any other that may be alive."""
        self._calls = calls
        self._path = f"{_PREFIX}/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._times = times or Times()
        self._lease: dict[str, Any] | None = None
        self._changed_at = 0.0
        self._renewed_at = 0.0
        self.leading = False

    async def run(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Act whenever the lease is held, until cancelled; it is given back at the end.

        ``act`` is cancelled when the lease is lost, and begun anew when it is held again.
        """
        try:
            while True:
                await self._acquire()
                logger.info("%s holds lease %s: acting", self._identity, self._name)
                await self._act_while_held(act)
                logger.warning("%s lost lease %s: waiting", self._identity, self._name)
        finally:
            await self._give_back()

    async def _acquire(self) -> None:
        while True:
            if await self._attempt():
                return
            await asyncio.sleep(self._pause())

    async def _act_while_held(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.leading = True
        try:
            async with asyncio.TaskGroup() as group:
                acting = group.create_task(act(), name="what only the leader does")
                await self._renew_until_lost()
                acting.cancel()
        finally:
            self.leading = False

    async def _renew_until_lost(self) -> None:
        while True:
            last = self._renewed_at
            try:
                async with asyncio.timeout_at(last + self._times.deadline):
                    while self._renewed_at == last:
                        await asyncio.sleep(self._times.retry)
                        if not await self._attempt() and not self._free():
                            return
            except TimeoutError:
                return

    async def _attempt(self) -> bool:
        """Take or renew the lease if nobody else has it; False when that did not come off."""
        begun = _now()
        try:
            async with asyncio.timeout(self._times.deadline):
                if not self.leading or self._lease is None:
                    await self._look()
                if not self._free():
                    return False
                await self._write()
        except errors.ApiError as error:
            logger.debug("lease %s: %s", self._name, error)
            await self._look_again(error)
            return False
        except TimeoutError:
            return False
        # Counted from before the request: others count from after the server's write.
        self._renewed_at = begun
        return True

    async def _look_again(self, error: errors.ApiError) -> None:
        """After a write that another one came before: see whose."""
        if isinstance(error, errors.ApiConflictError | errors.ApiNotFoundError):
            with contextlib.suppress(errors.ApiError, TimeoutError):
                async with asyncio.timeout(self._times.deadline):
                    await self._look()

    async def _look(self) -> None:
        try:
            answer = await self._calls.request("GET", f"{self._path}/{self._name}")
        except errors.ApiNotFoundError:
            self._lease = None
            return
        self._remember(json.loads(answer))

    def _remember(self, lease: dict[str, Any]) -> None:
        if self._lease is None or self._lease.get("spec") != lease.get("spec"):
            self._changed_at = _now()
        self._lease = lease

    def _free(self) -> bool:
        """Whether the lease, as last seen, may be written: nobody's, ours, or run out."""
        holder = self._spec.get("holderIdentity")
        return holder in (None, "", self._identity) or self._rest() <= 0

    def _rest(self) -> float:
        duration = self._spec.get("leaseDurationSeconds") or self._times.duration
        return self._changed_at + float(duration) - _now()

    def _pause(self) -> float:
        """Look again in a while, and at the very moment at which the lease runs out."""
        if self._free():
            return self._times.retry
        return min(self._times.retry, self._rest())

    @property
    def _spec(self) -> dict[str, Any]:
        return (self._lease or {}).get("spec") or {}

    async def _write(self) -> None:
        known, now = self._spec, _timestamp()
        mine = known.get("holderIdentity") == self._identity
        spec = {
            **known,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._times.duration),
            "acquireTime": known.get("acquireTime") if mine else now,
            "renewTime": now,
            "leaseTransitions": (known.get("leaseTransitions") or 0) + (0 if mine else 1),
        }
        await self._store(spec)

    async def _store(self, spec: dict[str, Any]) -> None:
        """Write the lease; its resourceVersion is the precondition of a change."""
        if self._lease is None:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": {**spec, "leaseTransitions": 0},
            }
            answer = await self._calls.request("POST", self._path, body=body)
        else:
            body = {**self._lease, "spec": spec}
            answer = await self._calls.request("PUT", f"{self._path}/{self._name}", body=body)
        self._remember(json.loads(answer))

    async def _give_back(self) -> None:
        """Let the next one act at once; should this fail, it acts once the lease runs out."""
        with contextlib.suppress(errors.ApiError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_SECONDS):
                await self._look()
                if self._spec.get("holderIdentity") == self._identity:
                    await self._store(
                        {**self._spec, "holderIdentity": "", "renewTime": _timestamp()}
                    )
                    logger.info("%s gave lease %s back", self._identity, self._name)


def _now() -> float:
    return asyncio.get_running_loop().time()  # monotonic, and what timeouts go by


def _timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
