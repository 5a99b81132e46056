"""Counts this consumer's twins in each of a provider's namespaces, where the provider can see it.

A provider may refuse to delete a namespace that holds volumes (deploy/provider/teardown).
Its policy can read one ConfigMap of that namespace, and this keeps it true, where it
may be written: Liqo's rights allow it, and a provider's own role may.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service import ports
from csi_liqo.service.controller import clusters

logger = logging.getLogger(__name__)

KEY: Final = ("", "lent-namespaces")
"""The only key; what was written last is remembered, so a look at all costs nothing."""

REFUSED_SECONDS: Final = 600.0
"""How long a namespace is left alone after a refusal; nothing tells when it is granted."""

PAUSE_SECONDS: Final = 0.3
"""Between two looks at all twins, which cost more the more there are; its runner keeps it."""
COUNT_SECONDS: Final = 5.0
"""How long a number may be out of date that is not "none": the policy's text alone has it."""

Place = tuple[str, str]
"""A provider's id, and one of its namespaces."""


class LentNamespaces:
    """Keeps the counts of every provider that is connected."""

    def __init__(
        self,
        providers: Callable[[], Iterable[clusters.Cluster]],
        namespaces_of: Callable[[objects.RemoteClusterSpec], Iterable[str]],
        cluster_id: str,
    ) -> None:
        """``namespaces_of``: which of a provider's namespaces may hold twins."""
        self._providers = providers
        self._namespaces_of = namespaces_of
        self._cluster_id = cluster_id
        self._written: dict[Place, tuple[str, float]] = {}
        """What was said of a place, and when."""
        self._refused: dict[Place, float] = {}

    def doubt(self) -> None:
        """Write again what was written, as after another replica may have written."""
        self._written.clear()

    async def reconcile(self, key: tuple[str, str]) -> float | None:
        """Write each count that changed; one provider's trouble is not another's.

        Raises:
            errors.ApiError: of one that could not be written; the others were.
        """
        failure: errors.ApiError | None = None
        again: list[float] = []
        for cluster in self._providers():
            if cluster.spec is None or cluster.config_maps is None:
                continue
            for namespace, count in self._count(cluster, cluster.spec).items():
                if not cluster.claims.covers(namespace):
                    continue
                rest = self._rest((cluster.id, namespace), str(count))
                if rest > 0:
                    again.append(rest)
                    continue
                try:
                    await self._write(cluster.config_maps, (cluster.id, namespace), str(count))
                except errors.ApiError as error:
                    failure = error
        if failure is not None:
            raise failure
        if self._refused:
            again.append(REFUSED_SECONDS)
        return min(again, default=None)

    def _rest(self, place: Place, count: str) -> float:
        """Return in how many seconds a number is worth a write; a place in use or out of it, now.

        What was said already is for ``_write`` to know.
        """
        said, when = self._written.get(place, ("0", 0.0))
        if count in (said, "0") or said == "0":
            return 0.0
        return when + COUNT_SECONDS - time.monotonic()

    def _count(self, cluster: clusters.Cluster, spec: objects.RemoteClusterSpec) -> dict[str, int]:
        counted: collections.Counter[str] = collections.Counter(
            dict.fromkeys(self._namespaces_of(spec), 0)
        )
        for twin in cluster.claims.all():
            if twin.consumer == self._cluster_id and twin.handed_over:
                counted[twin.namespace] += 1
        return dict(counted)

    async def _write(
        self, config_maps: ports.Objects[objects.ConfigMap], place: Place, count: str
    ) -> None:
        if self._written.get(place, ("", 0.0))[0] == count:
            return
        if time.monotonic() < self._refused.get(place, 0.0):
            return
        _, namespace = place
        try:
            await self._change(config_maps, namespace, count)
        except errors.ApiForbiddenError as error:
            if place not in self._refused:
                logger.info(
                    "twins in namespace %s of cluster %s are not counted there: %s",
                    *(namespace, place[0], error),
                )
            self._refused[place] = time.monotonic() + REFUSED_SECONDS
            return
        self._refused.pop(place, None)
        self._written[place] = (count, time.monotonic())

    async def _change(
        self, config_maps: ports.Objects[objects.ConfigMap], namespace: str, count: str
    ) -> None:
        """Patch, and create only what has something to say: most often it is there."""
        manifest = self._forge(count)
        name = manifest["metadata"]["name"]
        try:
            await config_maps.patch(namespace, name, {"data": manifest["data"]})
        except errors.ApiNotFoundError:
            if count != "0":
                with contextlib.suppress(errors.ApiNotFoundError):  # the namespace itself is gone
                    await config_maps.create(namespace, manifest)

    def _forge(self, count: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"csi-liqo-{self._cluster_id}",
                "labels": {
                    names.FACTS_LABEL: names.TWINS_FACTS,
                    names.CONSUMER_LABEL: self._cluster_id,
                },
            },
            "data": {"twins": count},
        }
