"""What a call becomes on its way to a real driver."""

from __future__ import annotations

import dataclasses
import hashlib

import msgspec
import pytest

from csi_liqo.model import errors, source, volumes
from csi_liqo.rpc import passthrough
from csi_liqo.rpc.pb import csi_pb2
from csi_liqo.service.node import forwarding, journal, requests

MODE = volumes.AccessMode
REAL = source.CsiSource(
    driver="real.example.com",
    handle="h/1",
    persistent_volume="pv-1",
    attributes={"pool": "fast"},
    access_modes=("ReadWriteOnce",),
)
FOUND = source.Source(
    kind=source.Kind.CSI, fs_type="xfs", mount_options=("noatime", "discard"), csi=REAL
)
ALL = forwarding.Abilities(
    stages=True, expands=True, single_node_multi_writer=True, mount_group=True
)
NONE = forwarding.Abilities()
CAPABILITY = volumes.VolumeCapability(
    access_mode=MODE.SINGLE_NODE_MULTI_WRITER,
    volume_mode=source.VolumeMode.FILESYSTEM,
    fs_type="ext4",
    mount_flags=("discard", "nodev"),
    mount_group="2000",
)
CONTEXT = {
    **source.to_context(FOUND),
    "twin": "a/b/c",
    "csi.storage.k8s.io/pod.name": "p",
    "csi.storage.k8s.io/pod.namespace": "n",
    "csi.storage.k8s.io/serviceAccount.tokens": "hidden",
}


def with_real(**changes: object) -> source.Source:
    return msgspec.structs.replace(FOUND, csi=msgspec.structs.replace(REAL, **changes))


def record(found: source.Source = FOUND) -> journal.Record:
    return journal.Record(
        volume_id="v",
        source=found,
        staging_path="/k/virtual",
        real_staging_path=forwarding.staging_path(found, "/k"),
    )


def publish_request() -> requests.PublishRequest:
    return requests.PublishRequest(
        volume_id="v",
        staging_path="/k/virtual",
        target_path="/k/target",
        capability=CAPABILITY,
        read_only=False,
        context=CONTEXT,
    )


def test_a_filesystem_is_staged_where_kubelet_stages_the_real_volume() -> None:
    hashed = hashlib.sha256(b"h/1").hexdigest()
    expected = f"/k/plugins/kubernetes.io/csi/real.example.com/{hashed}/globalmount"
    assert forwarding.staging_path(FOUND, "/k") == expected


def test_a_block_volume_is_staged_under_the_real_persistent_volumes_name() -> None:
    found = msgspec.structs.replace(FOUND, volume_mode=source.VolumeMode.BLOCK)
    expected = "/k/plugins/kubernetes.io/csi/volumeDevices/staging/pv-1"
    assert forwarding.staging_path(found, "/k") == expected


@pytest.mark.parametrize(
    ("first", "newer", "older"),
    [
        ("ReadWriteOnce", MODE.SINGLE_NODE_MULTI_WRITER, MODE.SINGLE_NODE_WRITER),
        ("ReadWriteOncePod", MODE.SINGLE_NODE_SINGLE_WRITER, MODE.SINGLE_NODE_WRITER),
        ("ReadOnlyMany", MODE.MULTI_NODE_READER_ONLY, MODE.MULTI_NODE_READER_ONLY),
        ("ReadWriteMany", MODE.MULTI_NODE_MULTI_WRITER, MODE.MULTI_NODE_MULTI_WRITER),
    ],
)
def test_the_access_mode_is_the_real_volumes_first_in_words_the_driver_knows(
    first: str, newer: volumes.AccessMode, older: volumes.AccessMode
) -> None:
    found = with_real(access_modes=(first, "ReadWriteMany"))
    assert forwarding.access_mode(found, MODE.MULTI_NODE_SINGLE_WRITER, ALL) is newer
    assert forwarding.access_mode(found, MODE.MULTI_NODE_SINGLE_WRITER, NONE) is older


@pytest.mark.parametrize(
    ("asked", "newer", "older"),
    [
        (MODE.SINGLE_NODE_WRITER, MODE.SINGLE_NODE_MULTI_WRITER, MODE.SINGLE_NODE_WRITER),
        (MODE.SINGLE_NODE_SINGLE_WRITER, MODE.SINGLE_NODE_SINGLE_WRITER, MODE.SINGLE_NODE_WRITER),
        (MODE.MULTI_NODE_MULTI_WRITER, MODE.MULTI_NODE_MULTI_WRITER, MODE.MULTI_NODE_MULTI_WRITER),
    ],
)
def test_without_one_the_asked_mode_is_translated(
    asked: volumes.AccessMode, newer: volumes.AccessMode, older: volumes.AccessMode
) -> None:
    found = with_real(access_modes=())
    assert forwarding.access_mode(found, asked, ALL) is newer
    assert forwarding.access_mode(found, asked, NONE) is older


def test_filesystem_and_flags_are_the_real_volumes_then_the_virtual_ones() -> None:
    use = forwarding.use_of(FOUND, CAPABILITY, ALL)
    assert use.fs_type == "xfs"
    assert use.mount_flags == ("noatime", "discard", "nodev")
    assert forwarding.use_of(with_real(), CAPABILITY, ALL).fs_type == "xfs"
    bare = msgspec.structs.replace(FOUND, fs_type="")
    assert forwarding.use_of(bare, CAPABILITY, ALL).fs_type == ""


def test_an_selinux_label_is_one_flag_with_its_commas() -> None:
    label = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
    asked = dataclasses.replace(CAPABILITY, mount_flags=(label,))
    assert forwarding.use_of(FOUND, asked, ALL).mount_flags == ("noatime", "discard", label)


def test_the_group_goes_to_a_driver_that_applies_it_and_to_no_other() -> None:
    assert forwarding.use_of(FOUND, CAPABILITY, ALL).mount_group == "2000"
    assert forwarding.use_of(FOUND, CAPABILITY, NONE).mount_group == ""


def test_the_context_is_the_real_volumes_alone() -> None:
    plan = forwarding.plan_publish(publish_request(), record(), ALL)
    assert plan.context == {"pool": "fast"}
    assert plan.handle == "h/1"


def test_pod_info_is_added_where_the_real_driver_wants_it_and_tokens_never() -> None:
    plan = forwarding.plan_publish(publish_request(), record(with_real(pod_info=True)), ALL)
    assert plan.context == {
        "pool": "fast",
        "csi.storage.k8s.io/pod.name": "p",
        "csi.storage.k8s.io/pod.namespace": "n",
    }


def test_stage_never_has_pod_info() -> None:
    request = requests.StageRequest(
        volume_id="v", staging_path="/k/virtual", capability=CAPABILITY, context=CONTEXT
    )
    plan = forwarding.plan_stage(request, record(with_real(pod_info=True)), ALL)
    assert plan.context == {"pool": "fast"}


def test_a_driver_that_does_not_stage_gets_no_staging_path() -> None:
    staged = forwarding.staging_path(FOUND, "/k")
    assert forwarding.plan_publish(publish_request(), record(), ALL).staging_path == staged
    assert forwarding.plan_publish(publish_request(), record(), NONE).staging_path == ""
    assert forwarding.plan_known(record(), ALL).staging_path == staged
    assert forwarding.plan_known(record(), NONE).staging_path == ""


def test_a_message_keeps_what_the_plan_does_not_name() -> None:
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="v",
        publish_context={"device": "/dev/x"},
        staging_target_path="/k/virtual",
        target_path="/k/target",
        readonly=True,
        secrets={"a": "b"},
        volume_context=CONTEXT,
        volume_capability=csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(
                fs_type="ext4", mount_flags=["discard"], volume_mount_group="2000"
            ),
            access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_MULTI_WRITER"),
        ),
    )
    before = request.SerializeToString(deterministic=True)
    sent = passthrough.planned(request, forwarding.plan_publish(publish_request(), record(), NONE))
    assert sent == csi_pb2.NodePublishVolumeRequest(
        volume_id="h/1",
        publish_context={"device": "/dev/x"},
        target_path="/k/target",
        readonly=True,
        secrets={"a": "b"},
        volume_context={"pool": "fast"},
        volume_capability=csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(
                fs_type="xfs", mount_flags=["noatime", "discard", "nodev"]
            ),
            access_mode=csi_pb2.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER"),
        ),
    )
    assert request.SerializeToString(deterministic=True) == before


def test_a_field_of_a_later_csi_is_sent_on() -> None:
    later = csi_pb2.NodeUnpublishVolumeRequest(volume_id="v", target_path="/t")
    unknown = b"\xfa\x3f\x03new"  # field 1023, which no message has
    request = csi_pb2.NodeUnpublishVolumeRequest.FromString(later.SerializeToString() + unknown)
    sent = passthrough.planned(request, forwarding.plan_known(record(), ALL))
    assert sent.volume_id == "h/1"
    assert sent.SerializeToString().endswith(unknown)


def test_an_empty_staging_path_stays_empty() -> None:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/t")
    sent = passthrough.planned(request, forwarding.plan_known(record(), ALL))
    assert sent == csi_pb2.NodeGetVolumeStatsRequest(volume_id="h/1", volume_path="/t")


def test_expansion_without_a_capability_is_sent_without_one() -> None:
    assert forwarding.plan_expand(record(), None, ALL).use is None
    use = forwarding.plan_expand(record(), CAPABILITY, ALL).use
    assert use is not None
    assert dataclasses.replace(use, mount_group="") == dataclasses.replace(
        forwarding.use_of(FOUND, CAPABILITY, ALL), mount_group=""
    )


def test_a_csi_source_survives_its_codec() -> None:
    full = with_real(
        fs_group_policy=source.FsGroupPolicy.FILE,
        pod_info=True,
        attach_required=True,
        requires_republish=True,
    )
    assert source.from_context(source.to_context(full)) == full


@pytest.mark.parametrize(
    "broken",
    [
        source.Source(kind=source.Kind.CSI),
        source.Source(kind=source.Kind.LOCAL, path="/x", csi=REAL),
        with_real(handle=""),
        with_real(driver="../../etc"),
        with_real(persistent_volume="a/../b"),
        with_real(persistent_volume=".."),
    ],
)
def test_a_csi_source_that_cannot_be_is_refused(broken: source.Source) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"volume_context\.source is malformed"):
        source.from_context(source.to_context(broken))


def test_a_context_larger_than_csi_allows_is_refused_by_name() -> None:
    fits = source.to_context(with_real(attributes={"a": "x" * 3000}))
    source.check_size(fits, "pv-1")
    with pytest.raises(errors.PreconditionError, match=r"real volume pv-1 takes 5\d\d\d bytes"):
        source.check_size(source.to_context(with_real(attributes={"a": "x" * 5000})), "pv-1")
