"""Names of an instance come from its folder, so two never meet."""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING

from lab import instance, network, settings

if TYPE_CHECKING:
    import pathlib


def test_two_folders_share_no_name(tmp_path: pathlib.Path) -> None:
    first, second = (instance.Instance(tmp_path / name) for name in ("first", "second"))

    assert first.group.path != second.group.path
    assert first.host_link != second.host_link


def test_a_folder_has_the_same_names_by_every_path(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    assert instance.Instance(tmp_path / "link" / "lab").id == instance.Instance(tmp_path / "lab").id


def test_an_interface_name_fits_the_kernels_limit(tmp_path: pathlib.Path) -> None:
    assert len(instance.Instance(tmp_path).host_link) <= 15


def test_the_address_range_is_remembered(tmp_path: pathlib.Path) -> None:
    octet = settings.SECOND_OCTETS[-1]

    instance.Instance(tmp_path).record_octet(octet)

    assert instance.Instance(tmp_path).recorded_octet == octet


def test_a_torn_record_counts_as_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "instance.json").write_text('{"octet": 1')

    assert instance.Instance(tmp_path).recorded_octet is None


def test_ranges_of_an_instance_do_not_overlap() -> None:
    addresses = network.Addresses(100)
    clusters = range(len(settings.CLUSTERS))
    ranges = [ipaddress.IPv4Network(addresses.pods(cluster)) for cluster in clusters]
    ranges += [ipaddress.IPv4Network(addresses.services(cluster)) for cluster in clusters]
    ranges.append(ipaddress.IPv4Network(f"{addresses.machine}/24", strict=False))

    assert all(one.subnet_of(addresses.whole) for one in ranges)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(ranges, 2))


def test_pods_of_a_node_are_in_its_clusters_range() -> None:
    addresses = network.Addresses(100)

    for cluster, nodes in enumerate(settings.CLUSTERS.values()):
        for node in range(len(nodes)):
            pods = ipaddress.IPv4Network(addresses.pods_of_node(cluster, node))
            assert pods.subnet_of(ipaddress.IPv4Network(addresses.pods(cluster)))
