"""One value in the place of all that are equal.

Ten thousand volumes say the same few things over and over: their class, access modes,
finalizers, the node they are pinned to. Each is a text or a tree of its own once decoded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MOST: Final = 4096
"""How many values are known at once: namespaces, classes and nodes of a large cluster. Beyond
that, those not met for longest are forgotten and may be there twice, which costs memory only."""


@functools.lru_cache(maxsize=MOST)
def _one(value: Any) -> Any:
    """Return the first that was equal; what cannot change is never the wrong one."""
    return value


@functools.lru_cache(maxsize=MOST)
def _one_map(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(items)


def share(thing: msgspec.Struct, *fields: str) -> None:
    """Have each of these fields, of a thing that is being made, hold what its equals hold.

    They must be immutable.
    """
    for field in fields:
        msgspec.structs.force_setattr(thing, field, _one(getattr(thing, field)))


def share_maps(thing: msgspec.Struct, *fields: str) -> None:
    """Do the same with mappings of texts, which nobody changes then.

    One takes more than the short texts in it, most often the size of a volume.
    """
    for field in fields:
        items = tuple(getattr(thing, field).items())
        msgspec.structs.force_setattr(thing, field, _one_map(items))
