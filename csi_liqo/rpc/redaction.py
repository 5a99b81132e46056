"""Request and response as one log line, without their secrets.

What is secret is read from the descriptors (option ``csi_secret``), so a field
that a later CSI version adds is covered. Two more are held back: CSI's text
calls mount flags sensitive without marking them, and kubelet may pass a pod's
service account tokens in volume_context (kubernetes v1.37.2, csi_mounter.go:363-421).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from google.protobuf import descriptor
from google.protobuf.message import Message

from csi_liqo.rpc.pb import csi_pb2

STRIPPED: Final = "***"
LONGEST: Final = 4096
"""Characters of one message in the log; CSI's maps alone may have 4 KiB."""

_SENSITIVE_FIELDS: Final = frozenset({"csi.v1.VolumeCapability.MountVolume.mount_flags"})
_SENSITIVE_KEYS: Final = frozenset({"csi.storage.k8s.io/serviceAccount.tokens"})

_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode

Plain = str | int | float | bool | list["Plain"] | dict[str, "Plain"]


def to_text(message: Message) -> str:
    """Return a message as compact JSON; a secret's presence shows, never its content."""
    text = _encode(_plain(message))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _plain(message: Message) -> dict[str, Plain]:
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def _field(field: descriptor.FieldDescriptor, value: object) -> Plain:
    if _is_secret(field):
        return STRIPPED
    match value:
        case Message() | str() | bytes() | int() | float():
            return _scalar(field, value)
        case Mapping():
            return {
                str(key): STRIPPED if key in _SENSITIVE_KEYS else _scalar(field, item)
                for key, item in sorted(value.items())
            }
        case Sequence():
            return [_scalar(field, item) for item in value]
        case _:
            return str(value)


@functools.cache  # of descriptors, which are what they are while the program runs
def _is_secret(field: descriptor.FieldDescriptor) -> bool:
    if field.full_name in _SENSITIVE_FIELDS:
        return True
    # protoc's stubs and typeshed's disagree on what an extension is.
    extension = cast("Any", csi_pb2.csi_secret)
    return bool(field.GetOptions().Extensions[extension])


def _scalar(field: descriptor.FieldDescriptor, value: object) -> Plain:
    match value:
        case str():
            return value
        case Message():
            return _plain(value)
        case bytes():
            return value.hex()
        case int() if field.enum_type is not None:
            named = field.enum_type.values_by_number.get(value)
            return value if named is None else named.name
        case int() | float():
            return value
        case _:
            return str(value)
