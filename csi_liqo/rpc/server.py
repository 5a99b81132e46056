"""A gRPC server on a unix socket that no two processes ever share.

grpc itself unlinks whatever socket it finds before it binds, also one that
another process is serving; so the file is asked first whether anybody listens.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket as sockets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio

from csi_liqo.model import errors

LONGEST_PATH: Final = 107
"""Bytes of a unix socket's path (sun_path less its end mark)."""

Registration = Callable[[grpc.aio.Server], None]
"""Adds one service, as the generated ``add_*Servicer_to_server`` with its servicer bound."""

if TYPE_CHECKING:  # generic in the stubs alone
    Around = Callable[[str, grpc.RpcMethodHandler[Any, Any]], grpc.RpcMethodHandler[Any, Any]]
    """Returns what serves a method, by its name, instead of a handler."""


def path_of(endpoint: str) -> pathlib.Path:
    """Return the path in ``unix:///a/b.sock``, ``unix:/a/b.sock`` or ``/a/b.sock``.

    Raises:
        errors.InvalidRequestError: another scheme, or not an absolute path.
    """
    path = endpoint.removeprefix("unix://").removeprefix("unix:")
    if not path.startswith("/"):
        raise errors.InvalidRequestError(
            f"endpoint {endpoint!r} is no unix socket: write unix:///absolute/path.sock"
        )
    return pathlib.Path(path)


@contextlib.asynccontextmanager
async def serving(
    path: pathlib.Path,
    services: Sequence[Registration],
    *,
    around: Around | None = None,
    grace_seconds: float = 25.0,
) -> AsyncIterator[None]:
    """Serve on a socket of mode 0600 until the block ends, then drain and unlink it.

    On the way out running calls have ``grace_seconds`` to finish, new ones are refused.

    Raises:
        errors.PreconditionError: another process serves there, or the path holds
            something that is no socket.
    """
    make_way(path)
    server = grpc.aio.server()
    for add in services:
        add(server if around is None else cast("grpc.aio.Server", _Wrapping(server, around)))
    with _only_for_the_owner():
        server.add_insecure_port(f"unix:{path}")
    await server.start()
    bound = os.stat(path)
    try:
        yield
    finally:
        await server.stop(grace_seconds)
        _unlink_own(path, bound)


class _Wrapping:
    """Takes services in a server's place, and puts something around their methods once.

    An interceptor would do so at each call, and cost it processor time.
    """

    def __init__(self, server: grpc.aio.Server, around: Around) -> None:
        self._server = server
        self._around = around

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Take none: the same methods come registered, which is what counts with gRPC."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add a service's methods."""
        wrapped = {name: self._around(name, handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)


def make_way(path: pathlib.Path) -> None:
    """Make the socket's folder, and remove a socket there that nobody listens on.

    Raises:
        errors.PreconditionError: as ``serving``.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise errors.PreconditionError(
            f"socket path {path} is longer than {LONGEST_PATH} bytes: choose a shorter folder"
        )
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise errors.PreconditionError(f"{path} is no socket: move it away")
    if _somebody_listens(path):
        raise errors.PreconditionError(f"another process serves {path}: stop it first")
    path.unlink(missing_ok=True)


def _somebody_listens(path: pathlib.Path) -> bool:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # a full backlog: somebody is slow, but there
            return True
        return True


@contextlib.contextmanager
def _only_for_the_owner() -> Iterator[None]:
    """Bind with mode 0600 from the first moment; roles bind before they start threads."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _unlink_own(path: pathlib.Path, bound: os.stat_result) -> None:
    """Unlink the socket unless a successor has bound its own there."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.stat(), bound):
            path.unlink()
