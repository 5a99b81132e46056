"""What speaks to API servers.

Of the official client two modules are used, but its packages import all they have: the client
without asyncio, OAuth, websockets, informers. That is 270 modules and 10 MiB in the controller.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

_PACKAGES: Final = ("kubernetes", "kubernetes.aio")


def _leave_out_the_rest() -> None:
    """Have those packages be there without having run their ``__init__`` (kubernetes 37.0.2).

    Their modules name each other in full, so each imports what it needs. Where somebody has
    imported the client before, all of it is there already and stays.
    """
    for name in _PACKAGES:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is not None:
            sys.modules[name] = package = importlib.util.module_from_spec(spec)
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, package)


_leave_out_the_rest()
