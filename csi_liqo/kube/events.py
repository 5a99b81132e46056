"""Events on the consumer's objects: one a reason, told again only after a while.

An object's trouble may be looked at many times a second. The name of an event is made of
the object and the reason, so that every repetition, also by another replica or after a
restart, is the same event with a higher count, and never a storm of new ones.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
from collections.abc import Callable
from typing import Any, Final

from csi_liqo.model import errors, objects
from csi_liqo.service import ports

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 300.0
"""How long a reason is not told again of an object. Events live for an hour."""

LONGEST_MESSAGE: Final = 1000
"""Characters; the API takes 1024 bytes of the newer kind of events."""

_LONGEST_NAME: Final = 220


class EventTeller:
    """Implements ports.Events over the API of one cluster."""

    def __init__(
        self,
        events: ports.Objects[objects.Event],
        component: str,
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._events = events
        self._component = component
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    async def warn(
        self, about: objects.Claim | objects.PersistentVolume, reason: str, message: str
    ) -> None:
        name = _name_of(about, reason)
        now = self._clock()
        last = self._told.get(name)
        if last is not None and now - last[0] < INTERVAL_SECONDS:
            return
        self._forget(now)
        namespace = about.namespace or "default"  # where events of cluster-scoped objects are
        try:
            count = await self._tell(namespace, name, about, reason, message, last)
        except (errors.ApiForbiddenError, errors.ApiNotFoundError) as error:
            # The namespace is ending, or the right is missing: the log has it, at least.
            logger.warning("%s: %s (no event: %s)", about.reference, message, error)
            count = 0
        self._told[name] = (now, count)

    async def _tell(
        self,
        namespace: str,
        name: str,
        about: objects.Claim | objects.PersistentVolume,
        reason: str,
        message: str,
        last: tuple[float, int] | None,
    ) -> int:
        """Create the event or tell it again; returns how often it was told."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = message[:LONGEST_MESSAGE]
        again: dict[str, Any] = {"message": text, "lastTimestamp": stamp}
        if last is not None and last[1]:
            again["count"] = last[1] + 1
            try:
                return (await self._events.patch(namespace, name, again)).count
            except errors.ApiNotFoundError:
                pass  # it has expired
        try:
            forged = self._forge(namespace, name, about, reason, text, stamp)
            return (await self._events.create(namespace, forged)).count
        except errors.ApiAlreadyExistsError:
            # Told before this process began to; its count is learnt with the answer.
            again.pop("count", None)
            return (await self._events.patch(namespace, name, again)).count

    def _forge(
        self,
        namespace: str,
        name: str,
        about: objects.Claim | objects.PersistentVolume,
        reason: str,
        message: str,
        stamp: str,
    ) -> dict[str, Any]:
        kind = "PersistentVolumeClaim" if isinstance(about, objects.Claim) else "PersistentVolume"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }

    def _forget(self, now: float) -> None:
        """Drop what was told so long ago that its event has expired."""
        if len(self._told) > 1000:
            recent = {k: v for k, v in self._told.items() if now - v[0] < 12 * INTERVAL_SECONDS}
            self._told = recent


def _name_of(about: objects.Object, reason: str) -> str:
    """The same for the same object and reason, in every process."""
    digest = hashlib.sha256(f"{about.uid}/{reason}".encode()).hexdigest()[:16]
    return f"{about.name[:_LONGEST_NAME]}.{digest}"
