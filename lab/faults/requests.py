"""What a request to an API server is about, read from its method and path."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_WRITING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Nothing is stored by a review or for a token, so a crash around one leaves nothing behind.
_REVIEWS: Final = ("authentication.k8s.io", "authorization.k8s.io")
_TOKEN: Final = "token"
_NAMESPACE_SUBRESOURCES: Final = ("status", "finalize")


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The object or collection that a path names; empty where the path has none."""

    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @classmethod
    def parse(cls, path: str) -> Target:
        """Read a path without its query; one that names no resource gives an empty target."""
        match path.strip("/").split("/"):
            case ["api", _, *rest]:
                group = ""
            case ["apis", group, _, *rest]:
                pass
            case _:
                return cls()
        match rest:
            case ["namespaces", name, subresource] if subresource in _NAMESPACE_SUBRESOURCES:
                return cls(group, "namespaces", "", name, subresource)
            case ["namespaces", namespace, resource, *names]:
                pass
            case [resource, *names]:
                namespace = ""
            case _:
                return cls(group)
        name = names[0] if names else ""
        return cls(group, resource, namespace, name, "/".join(names[1:]))


@dataclasses.dataclass(slots=True)
class Recorded:
    """One request as it arrived, and what became of it.

    `is_write` tells whether it may change what is stored. `sent` turns true when
    the API server is asked; `status` is what the client is answered, None when
    it is not, or not yet.
    """

    method: str
    path: str
    target: Target
    is_watch: bool
    is_write: bool
    sent: bool = False
    status: int | None = None

    @classmethod
    def of(cls, method: str, path: str, query: Mapping[str, str]) -> Recorded:
        """Read a request that arrives."""
        target = Target.parse(path)
        changes = (
            method in _WRITING
            and target.group not in _REVIEWS
            and target.subresource != _TOKEN
            and "dryRun" not in query
        )
        is_watch = query.get("watch") in ("1", "true")
        return cls(method, path, target, is_watch=is_watch, is_write=changes)

    @property
    def subresource(self) -> str:
        """The part of the object that the request is about; empty for all of it."""
        return self.target.subresource

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status}"
