"""How many volumes this node takes: as many as the real drivers behind the virtual classes.

The scheduler counts a pod's volumes against the limit of the driver that their
PersistentVolumes name. That is this driver, so a limit that a real driver has counts only
if it is repeated here. Which real drivers there are is the controller's to know; each says
for itself what it takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from csi_liqo.model import errors
from csi_liqo.service.node import ports

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 10.0
"""For all drivers together; kubelet registers nothing meanwhile, and gives 120 s."""


class Limits:
    """The limit of now.

    A driver that does not answer has the limit that it told last: to withdraw it would let
    the scheduler overfill the node, and to fail would take this driver from the node. One
    that never answered has none.
    """

    def __init__(
        self,
        names: ports.RealDriverNames,
        ask: Callable[[str], Awaitable[int]],
        *,
        own_name: str,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """``ask`` returns what a driver told, 0 for no limit; it raises errors.Error."""
        self._names = names
        self._ask = ask
        self._own_name = own_name
        self._patience_seconds = patience_seconds
        self._known: tuple[str, ...] = ()
        self._told: dict[str, int] = {}
        self._troubles: dict[str, str] = {}

    async def most_volumes(self) -> int:
        """Return the least of the real drivers' limits; 0 when none has one."""
        await self._read_names()
        await asyncio.gather(*map(self._refresh, self._known))
        self._told = {name: self._told[name] for name in self._known if name in self._told}
        return min((limit for limit in self._told.values() if limit > 0), default=0)

    async def _read_names(self) -> None:
        try:
            found = await asyncio.to_thread(self._names.read)
        except (OSError, errors.Error) as error:
            self._report("", f"which real drivers there are cannot be read: {error}")
            return
        self._report("", "")
        self._known = tuple(name for name in found if name != self._own_name)

    async def _refresh(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._patience_seconds):
                limit = await self._ask(name)
        except (errors.Error, TimeoutError) as error:
            known = self._told.get(name, 0)
            kept = f"the last one, {known}, is kept" if known else "it counts as having none"
            why = str(error) or "no answer"
            self._report(name, f"{name} does not tell its limit of volumes, {kept}: {why}")
            return
        self._report(name, "")
        self._told[name] = limit

    def _report(self, subject: str, trouble: str) -> None:
        """Log a trouble once, not every minute."""
        if trouble and self._troubles.get(subject) != trouble:
            logger.warning("%s", trouble)
        self._troubles[subject] = trouble
