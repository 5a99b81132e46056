"""The sockets by which the drivers of this node are found, as kubelet finds them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat

from csi_liqo.host import syscalls
from csi_liqo.model import errors
from csi_liqo.service.node import ports


class PluginSockets:
    """Implements ``service.node.ports.PluginSockets``; ``kubelet_dir`` is the same as there."""

    def __init__(self, kubelet_dir: pathlib.Path) -> None:
        self._kubelet_dir = kubelet_dir

    def registered(self) -> tuple[str, ...]:
        """Return the registration sockets, the newest last.

        kubelet looks into folders too, and at no name that begins with a dot
        (kubernetes v1.37.2, plugin_watcher.go:112-207).
        """
        found: list[tuple[int, str]] = []
        for folder, folders, names in os.walk(self._kubelet_dir / "plugins_registry"):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    facts = os.lstat(path)
                    if stat.S_ISSOCK(facts.st_mode) and not name.startswith("."):
                        found.append((facts.st_mtime_ns, path))
        return tuple(path for _, path in sorted(found))

    def resolve(self, endpoint: str) -> ports.PluginSocket:
        """Return a driver's own socket, links below kubelet's folder followed."""
        folder = os.fspath(self._kubelet_dir)
        relative = endpoint.removeprefix(f"{folder}/")
        if not endpoint.startswith("/") or relative == endpoint:
            raise errors.OutcomeUnknownError(f"its socket {endpoint!r} is not below {folder}")
        start = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
            descriptor = syscalls.openat2(start, relative, flags=os.O_PATH, resolve=resolve)
        except OSError as error:
            raise errors.OutcomeUnknownError(f"its socket {endpoint}: {error.strerror}") from error
        finally:
            os.close(start)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISSOCK(facts.st_mode):
                raise errors.OutcomeUnknownError(f"its socket {endpoint} is no socket")
            return ports.PluginSocket(
                path=os.readlink(f"/proc/self/fd/{descriptor}"),
                identity=ports.Identity(device=facts.st_dev, inode=facts.st_ino),
            )
        finally:
            os.close(descriptor)
