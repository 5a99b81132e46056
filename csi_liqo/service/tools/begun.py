"""Which claims without a volume may have something in a provider, as the controller noted it."""

from __future__ import annotations

from csi_liqo.model import attempts, errors, names
from csi_liqo.service.tools import ports


async def read(server: ports.Server) -> dict[str, attempts.Attempt]:
    """Return the attempts by their claims' uids.

    Raises:
        errors.ApiError: the notes may not be read, or the API server does not answer.
    """
    where = (names.ATTEMPTS_CONFIG_MAP, names.DEFAULT_TWINS_NAMESPACE)
    config_map = await server.find(ports.CONFIG_MAPS, *where)
    return attempts.read((config_map or {}).get("data") or {})


async def read_if_allowed(server: ports.Server) -> dict[str, attempts.Attempt]:
    """As ``read``; none are known to who may not read them."""
    try:
        return await read(server)
    except errors.ApiForbiddenError:
        return {}
