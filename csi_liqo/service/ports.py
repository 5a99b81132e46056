"""What the services need of the outside, stated by them and built by others.

One port stands for one kind of object in one cluster: its cache, kept by a
watch, and its writes. Everything a service knows of Kubernetes is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from csi_liqo.model import objects

T_co = TypeVar("T_co", bound=objects.Object, covariant=True)
R = TypeVar("R")

Manifest = dict[str, Any]
"""An object to create, as plain values."""

Patch = dict[str, Any] | list[dict[str, Any]]
"""A merge patch when a mapping, a JSON patch when a list of operations."""


class Objects(Protocol[T_co]):
    """The objects of one kind in one cluster."""

    @property
    def synced(self) -> bool:
        """Whether the cache holds all of them and its watch is alive."""

    def covers(self, namespace: str) -> bool:
        """Tell whether the cache holds all of one namespace, whatever is wrong with others."""

    @property
    def gaps(self) -> tuple[str, ...]:
        """The namespaces that the cache does not hold, "" for any; none exactly when synced."""

    async def ready(self, namespace: str) -> bool:
        """Tell whether the cache covers a namespace, giving a new watch a moment to begin.

        An empty one means all of them.
        """

    def get(self, namespace: str, name: str) -> T_co | None:
        """Return the cached object; None means none is cached, which is proof only when synced."""

    def all(self) -> Iterable[T_co]:
        """Return every cached object, in no order."""

    def select(self, index: str, value: str) -> tuple[T_co, ...]:
        """Return the cached objects with this value in an index."""

    async def wait(self, namespace: str, name: str, until: Callable[[T_co | None], R | None]) -> R:
        """Wait until ``until`` of the cached object is not None, and return that.

        It is asked at once and after each change. Whatever it raises ends the wait.
        """

    async def read(self, namespace: str, name: str) -> T_co | None:
        """Read the object from the API server; None when it does not exist.

        Raises:
            errors.ApiError: the server refused, or did not answer.
        """

    async def raw(self, namespace: str, name: str) -> Manifest | None:
        """As ``read``, with every field that the API server has, to make the object again."""

    async def create(self, namespace: str, manifest: Manifest) -> T_co:
        """Create an object, and return it as stored.

        Raises:
            errors.ApiAlreadyExistsError: one of this name exists.
            errors.ApiNotFoundError: the namespace does not exist.
            errors.ApiError: any other refusal; with ApiUnavailableError it may exist now.
        """

    async def patch(
        self, namespace: str, name: str, patch: Patch, *, subresource: str = ""
    ) -> T_co:
        """Change an object, and return it as stored.

        Raises:
            errors.ApiConflictError: a precondition in the patch failed.
            errors.ApiError: any other refusal.
        """

    async def delete(
        self, namespace: str, name: str, *, uid: str, resource_version: str = ""
    ) -> None:
        """Ask for deletion of exactly this object; that it is gone already is success.

        Raises:
            errors.ApiConflictError: another object, or another version of it, has the name.
            errors.ApiError: any other refusal.
        """


class Warnings(Protocol):
    """What other controllers say against an object."""

    async def latest(self, namespace: str, uid: str) -> str:
        """Return the newest Warning event's text on an object; empty when there is none to see."""

    def heard(self, namespace: str) -> bool:
        """Tell whether events there may be read, as far as was tried."""


class Events(Protocol):
    """What this driver says of the consumer's objects, where their owners look for it."""

    async def warn(
        self, about: objects.Claim | objects.PersistentVolume, reason: str, message: str
    ) -> None:
        """Put a Warning on an object; the same reason again only after a while.

        ``reason`` is one CamelCase word. Missing rights are no error: the log has it then.

        Raises:
            errors.ApiError: the API server gave no answer, so that it may be tried again.
        """
