"""Ends the notes of attempts that came to their end: the claim has a volume, or is gone."""

from __future__ import annotations

from typing import Final

from csi_liqo.model import attempts as model
from csi_liqo.model import objects
from csi_liqo.service import ports
from csi_liqo.service.controller import attempts

KEY: Final = ("", "attempts")
PAUSE_SECONDS: Final = 5.0
"""Between two looks at all notes: a hundred claims that are bound are not a hundred writes."""


class EndedAttempts:
    """Looks at all notes at once; every key means them."""

    def __init__(self, noted: attempts.Attempts, claims: ports.Objects[objects.Claim]) -> None:
        self._noted = noted
        self._claims = claims
        self._gone: set[str] = set()

    def gone(self, claim_uid: str) -> None:
        """Hear that a claim was seen to go away: its absence needs no second look."""
        self._gone.add(claim_uid)

    async def reconcile(self, _: tuple[str, str]) -> float | None:
        """Take the notes away that nobody needs.

        Raises:
            errors.ApiError: the API server did not say, or refused.
        """
        if not self._claims.synced:
            return PAUSE_SECONDS
        found = dict(self._noted.all())
        self._gone.intersection_update(found)
        await self._noted.end({uid for uid, one in found.items() if await self._ended(uid, one)})
        return None

    async def _ended(self, uid: str, attempt: model.Attempt) -> bool:
        """Tell whether nobody asks for a claim's volume any more.

        Its own volume says from then on where it is. A note may be of a claim that another
        replica sees before this one, so that absence from the cache is looked into.
        """
        if uid in self._gone:
            return True
        where = attempt.namespace, attempt.name
        claim = self._claims.get(*where)
        if claim is None or claim.uid != uid:
            claim = await self._claims.read(*where)
        return claim is None or claim.uid != uid or bool(claim.spec.volume_name)
