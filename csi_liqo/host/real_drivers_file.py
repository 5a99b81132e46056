"""The names of the real drivers, in a file that the controller's ConfigMap becomes."""

from __future__ import annotations

import pathlib

import msgspec

from csi_liqo.model import errors


class RealDriversFile:
    """Implements ``service.node.ports.RealDriverNames``."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> tuple[str, ...]:
        """Return the names; none when there is no file.

        kubelet exchanges the file as a whole some time after the ConfigMap changed, so it
        is read anew each time.

        Raises:
            errors.PreconditionError: it is no JSON list of names.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        try:
            return msgspec.json.decode(content, type=tuple[str, ...])
        except msgspec.DecodeError as error:
            raise errors.PreconditionError(f"{self._path}: {error}") from error
