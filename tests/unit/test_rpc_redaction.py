"""What a log line shows of a message: all that helps, nothing that is secret."""

from __future__ import annotations

import json

from csi_liqo.rpc import redaction
from csi_liqo.rpc.pb import csi_pb2, pluginregistration_pb2


def test_secrets_show_as_present_only() -> None:
    message = csi_pb2.CreateVolumeRequest(name="pvc-1", secrets={"password": "hunter2"})
    assert json.loads(redaction.to_text(message)) == {"name": "pvc-1", "secrets": "***"}


def test_every_field_published_as_secret_is_stripped() -> None:
    stripped = 0
    for message_type in csi_pb2.DESCRIPTOR.message_types_by_name.values():
        if "secrets" not in message_type.fields_by_name:
            continue
        message = getattr(csi_pb2, message_type.name)(secrets={"key": "hunter2"})
        assert "hunter2" not in redaction.to_text(message)
        stripped += 1
    assert stripped > 15


def test_mount_flags_and_service_account_tokens_are_stripped() -> None:
    message = csi_pb2.NodePublishVolumeRequest(
        volume_id="v",
        volume_context={"csi.storage.k8s.io/serviceAccount.tokens": "jwt", "version": "1"},
        volume_capability=csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4", mount_flags=["pw=jwt"])
        ),
    )
    text = redaction.to_text(message)
    assert "jwt" not in text
    assert '"version":"1"' in text
    assert '"fs_type":"ext4"' in text


def test_enums_lists_and_nested_messages_are_readable() -> None:
    message = csi_pb2.CreateVolumeRequest(
        name="v",
        volume_capabilities=[
            csi_pb2.VolumeCapability(
                block=csi_pb2.VolumeCapability.BlockVolume(),
                access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER"),
            )
        ],
        accessibility_requirements=csi_pb2.TopologyRequirement(
            requisite=[csi_pb2.Topology(segments={"b": "2", "a": "1"})]
        ),
    )
    assert json.loads(redaction.to_text(message)) == {
        "name": "v",
        "volume_capabilities": [{"block": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}],
        "accessibility_requirements": {"requisite": [{"segments": {"a": "1", "b": "2"}}]},
    }


def test_lists_of_strings_are_lists() -> None:
    message = pluginregistration_pb2.PluginInfo(name="n", supported_versions=["1.0.0"])
    assert json.loads(redaction.to_text(message)) == {"name": "n", "supported_versions": ["1.0.0"]}


def test_a_long_message_is_cut() -> None:
    message = csi_pb2.CreateVolumeRequest(name="x" * 10_000)
    assert len(redaction.to_text(message)) < 5_000
