"""The names of this cluster's namespaces, asked for once: what a mapping may be applied to."""

from __future__ import annotations

from typing import Final

import msgspec

from csi_liqo.kube import api, resources
from csi_liqo.model import errors, objects

PAGE_SIZE: Final = 500


class _ListMetadata(objects.Struct, frozen=True):
    continue_: str = msgspec.field(name="continue", default="")


class _Page(objects.Struct, frozen=True):
    metadata: _ListMetadata
    items: tuple[objects.Namespace, ...] = ()


async def list_names(server: api.Api) -> list[str]:
    """Return the names of all namespaces; none where they may not be listed.

    Raises:
        errors.ApiError: the server does not answer.
    """
    found: list[str] = []
    query = {"limit": str(PAGE_SIZE)}
    while True:
        try:
            answer = await server.request("GET", resources.NAMESPACES.path(), query=query)
        except errors.ApiForbiddenError:
            return found
        page = msgspec.json.decode(answer, type=_Page)
        found += [namespace.name for namespace in page.items]
        if not page.metadata.continue_:
            return found
        query["continue"] = page.metadata.continue_
