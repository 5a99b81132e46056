"""One cluster as the demo sees it: what it holds now, kept by watches.

Every wait of the demo is a condition on these objects, looked at again when one
of them changes. Nothing is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Final, TypeVar

from lab import api, errors, mirror, processes, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

T = TypeVar("T")

PATHS: Final = {
    "pods": "/api/v1/pods",
    "claims": "/api/v1/persistentvolumeclaims",
    "volumes": "/api/v1/persistentvolumes",
    "nodes": "/api/v1/nodes",
    "namespaces": "/api/v1/namespaces",
    "csi_nodes": "/apis/storage.k8s.io/v1/csinodes",
    "events": "/api/v1/events",
}


class DemoError(errors.LabError):
    """Something the demo shows is not so; the text says what was seen instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl for one cluster, as a person would use it."""

    program: pathlib.Path
    kubeconfig: pathlib.Path

    async def __call__(self, *arguments: str) -> str:
        """Run it and return what it prints.

        Raises:
            LabError: it failed; the text has its complaint.
        """
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return await processes.run(self.program, *arguments, environment=environment)


class View:
    """The objects of one cluster."""

    def __init__(self, name: str, server: api.Api, kubectl: Kubectl) -> None:
        self.name = name
        self.server = server
        self.kubectl = kubectl
        self._tick = asyncio.Event()
        self._mirrors = {
            kind: mirror.Mirror(server, path, changed=self._on_change)
            for kind, path in PATHS.items()
        }

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, name: str, directory: pathlib.Path) -> AsyncIterator[View]:
        """Watch the cluster of this name of a lab's directory."""
        kubeconfig = directory / name / "kubeconfig"
        kubectl = Kubectl(settings.DEFAULT_INSTANCE / "bin" / "kubectl", kubeconfig)
        async with await api.Api.of(kubeconfig) as server:
            view = cls(name, server, kubectl)
            watches = [
                asyncio.create_task(watch.run(), name=f"{name} {kind}")
                for kind, watch in view._mirrors.items()
            ]
            try:
                async with asyncio.timeout(30):
                    for watch in view._mirrors.values():
                        await watch.synced.wait()
                yield view
            finally:
                for task in watches:
                    task.cancel()
                await asyncio.gather(*watches, return_exceptions=True)

    def _on_change(self, _: api.Json) -> None:
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()

    def get(self, kind: str, name: str, namespace: str = "") -> api.Json | None:
        """Return an object; None when there is none."""
        return self._mirrors[kind].objects.get(mirror.Key(namespace, name))

    def all(self, kind: str, namespace: str | None = None) -> Iterable[api.Json]:
        """Return the objects of one kind, of one namespace or of all."""
        for key, item in list(self._mirrors[kind].objects.items()):
            if namespace in (None, key.namespace):
                yield item

    async def wait(
        self,
        what: str,
        until: Callable[[], T | None],
        *,
        seconds: float = 120,
        explain: Callable[[], str] = lambda: "",
    ) -> T:
        """Wait until `until` returns something, and return that.

        Args:
            what: what is waited for, as the error names it.
            until: asked now and after every change in this cluster.
            seconds: how long.
            explain: says what is there instead.

        Raises:
            DemoError: time is up.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    tick = self._tick
                    found = until()
                    if found is not None:
                        return found
                    await tick.wait()
        except TimeoutError:
            raise DemoError(f"{what}: not so after {seconds:.0f} s. {explain()}".rstrip()) from None

    async def changed(self) -> None:
        """Wait for the next change of anything in this cluster."""
        await self._tick.wait()

    def warnings(self, namespace: str) -> str:
        """Return the latest warning about each object of a namespace, for an error's text."""
        latest: dict[str, str] = {}
        found = [item for item in self.all("events", namespace) if item["type"] == "Warning"]
        for event in sorted(found, key=lambda item: item.get("lastTimestamp") or ""):
            about = event["involvedObject"]
            latest[f"{about['kind']} {about['name']}"] = event["message"]
        return "; ".join(f"{about}: {message}" for about, message in latest.items())


def condition(thing: api.Json, kind: str) -> api.Json | None:
    """Return a condition of an object's status; None when it has none of this type."""
    conditions = thing.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), None)


def is_ready(thing: api.Json) -> bool:
    """Tell whether a pod or a node is ready, and a pod not on its way out."""
    found = condition(thing, "Ready")
    going = thing["metadata"].get("deletionTimestamp") is not None
    return found is not None and found["status"] == "True" and not going
