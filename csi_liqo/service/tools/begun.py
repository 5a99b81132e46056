"""Which claims without a volume may have something in a provider, as the controller noted it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from csi_liqo.model import attempts, errors, names
from csi_liqo.service.tools import ports

_PLACE: Final = (names.ATTEMPTS_CONFIG_MAP, names.DEFAULT_TWINS_NAMESPACE)


async def read(server: ports.Server) -> dict[str, attempts.Attempt]:
    """Return the attempts by their claims' uids.

    Raises:
        errors.ApiError: the notes may not be read, or the API server does not answer.
    """
    config_map = await server.find(ports.CONFIG_MAPS, *_PLACE)
    return attempts.read((config_map or {}).get("data") or {})


async def read_if_allowed(server: ports.Server) -> dict[str, attempts.Attempt]:
    """As ``read``; none are known to who may not read them."""
    try:
        return await read(server)
    except errors.ApiForbiddenError:
        return {}


async def end(server: ports.Server, uids: Iterable[str]) -> None:
    """Take the notes of claims away, by their uids.

    Raises:
        errors.ApiError: they may still be there.
    """
    await server.merge(ports.CONFIG_MAPS, *_PLACE, attempts.forge_removal(uids))
