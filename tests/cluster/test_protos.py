"""The generated code means what was published.

The published descriptors come out of the official Go modules; the comparison is
of facts (a name, a number, a type, an option), so a difference reads as a line.
"""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor, descriptor_pb2
from google.protobuf.message import Message

from csi_liqo.rpc.pb import csi_pb2, pluginregistration_pb2
from lab import binaries

ROOT = pathlib.Path(__file__).parents[2]

Field = descriptor_pb2.FieldDescriptorProto


def options(described: Message) -> str:
    return " ".join(str(described).split())


def field_facts(scope: str, message: descriptor_pb2.DescriptorProto, field: Field) -> Iterator[str]:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "-"
    yield (
        f"{scope}.{field.name} = {field.number} {Field.Label.Name(field.label)} "
        f"{Field.Type.Name(field.type)} {field.type_name or '-'} oneof {oneof} "
        f"extends {field.extendee or '-'} optional {field.proto3_optional} "
        f"[{options(field.options)}]"
    )


def enum_facts(scope: str, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    name = f"{scope}.{enum.name}"
    yield f"enum {name} [{options(enum.options)}]"
    for value in enum.value:
        yield f"{name}.{value.name} = {value.number} [{options(value.options)}]"
    for reserved in enum.reserved_range:
        yield f"{name} reserves {reserved.start} to {reserved.end}"
    for reserved_name in enum.reserved_name:
        yield f"{name} reserves {reserved_name}"


def message_facts(scope: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield f"message {name} [{options(message.options)}]"
    for oneof in message.oneof_decl:
        yield f"oneof {name}.{oneof.name} [{options(oneof.options)}]"
    for field in (*message.field, *message.extension):
        yield from field_facts(name, message, field)
    for reserved in message.reserved_range:
        yield f"{name} reserves {reserved.start} to {reserved.end}"
    for reserved_name in message.reserved_name:
        yield f"{name} reserves {reserved_name}"
    for nested in message.nested_type:
        yield from message_facts(name, nested)
    for enum in message.enum_type:
        yield from enum_facts(name, enum)


def facts(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """Every fact of a file that the wire or a generated name depends on, in order."""
    scope = f".{file.package}"
    found = [f"package {scope} {file.syntax} [{options(file.options)}]"]
    found += [f"import {dependency}" for dependency in file.dependency]
    for message in file.message_type:
        found += message_facts(scope, message)
    for enum in file.enum_type:
        found += enum_facts(scope, enum)
    for extension in file.extension:
        found += field_facts(scope, descriptor_pb2.DescriptorProto(), extension)
    for service in file.service:
        found.append(f"service {service.name} [{options(service.options)}]")
        found += [
            f"rpc {service.name}.{rpc.name} {rpc.client_streaming} {rpc.input_type} -> "
            f"{rpc.server_streaming} {rpc.output_type} [{options(rpc.options)}]"
            for rpc in service.method
        ]
    return found


@pytest.fixture(scope="session")
def published() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """The official files by package, as the Go that builds the lab prints them."""
    go = asyncio.run(binaries.ensure_go()).program
    done = subprocess.run(
        [go, "run", "."], cwd=ROOT / "lab/pins/descriptors", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found = descriptor_pb2.FileDescriptorSet.FromString(done.stdout)
    return {file.package: file for file in found.file}


@pytest.mark.timeout(600)  # the first run compiles
@pytest.mark.parametrize(
    "ours", [csi_pb2.DESCRIPTOR, pluginregistration_pb2.DESCRIPTOR], ids=lambda file: file.package
)
def test_protos_say_what_was_published(
    published: dict[str, descriptor_pb2.FileDescriptorProto], ours: descriptor.FileDescriptor
) -> None:
    own = descriptor_pb2.FileDescriptorProto()
    ours.CopyToProto(own)
    official = facts(published[ours.package])
    assert len(official) > 10
    assert facts(own) == official


def test_the_comparison_sees_the_secret_option(
    published: dict[str, descriptor_pb2.FileDescriptorProto],
) -> None:
    assert any(
        "secrets = 5" in fact and "csi_secret" in fact for fact in facts(published["csi.v1"])
    )
