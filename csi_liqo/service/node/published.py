"""Publishes that are done, so that their repetition costs one look at the mount table.

kubelet repeats NodePublish for every volume of every pod about once a minute, because the
CSIDriver says ``requiresRepublish`` for the real drivers that want it. The others must not
pay for these, and nothing that is mounted may be touched: a server that does not answer
would hold a thread a minute, until none is left to mount anything.

Kept in memory alone: what another process of this driver did is done again, and the kernel
is asked each time whether it is still there.
"""

from __future__ import annotations

from dataclasses import dataclass

from csi_liqo.service.node import ports, requests


@dataclass(frozen=True, slots=True)
class _Done:
    request: requests.PublishRequest
    shown: ports.Shown


class Published:
    """What was published, by target. ``is_done`` and ``add`` ask the kernel and block."""

    def __init__(self, host: ports.Host) -> None:
        self._host = host
        self._done: dict[str, _Done] = {}

    def has(self, request: requests.PublishRequest) -> bool:
        """Tell whether this very request was carried out here; asks nobody."""
        done = self._done.get(request.target_path)
        return done is not None and done.request == request

    def is_done(self, request: requests.PublishRequest) -> bool:
        """Tell whether this very request was carried out here and shows at its target."""
        done = self._done.get(request.target_path)
        if done is None or done.request != request:
            return False
        return self._host.shown(request.target_path) == done.shown

    def add(self, request: requests.PublishRequest) -> None:
        """Remember a request that was carried out whole."""
        shown = self._host.shown(request.target_path)
        if shown is not None:
            self._done[request.target_path] = _Done(request, shown)

    def forget_target(self, path: str) -> None:
        """Forget what was published at a target, before it is undone."""
        self._done.pop(path, None)

    def forget_volume(self, volume_id: str) -> None:
        """Forget a volume's targets: it is staged anew, and its publishes shall follow."""
        for path, done in tuple(self._done.items()):
            if done.request.volume_id == volume_id:
                self._done.pop(path, None)
