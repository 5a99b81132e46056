from __future__ import annotations

import dataclasses

import pytest

from csi_liqo.model import affinity, capacity, names, objects, quantities

GIB = 1 << 30
DRIVER = objects.CsiDriver(metadata=objects.Metadata(name="csi.liqo.io", uid="d1"))


def room(cluster: str, size: int, *, largest: int | None = None) -> capacity.Room:
    return dataclasses.replace(
        capacity.none_in(cluster), available_bytes=size, largest_bytes=largest
    )


def test_nobody_counting_is_never_preferred_to_what_is_counted() -> None:
    """The scheduler prefers the largest ``capacity``, and refuses by ``maximumVolumeSize``."""
    counted, uncounted = capacity.tidy([room("rome", 5 * GIB), capacity.plenty_in("milan")])

    assert counted.available_bytes == uncounted.available_bytes == 5 * GIB
    assert uncounted.limit_bytes == capacity.PLENTY_BYTES


def test_where_nobody_counts_all_say_the_same() -> None:
    rooms = capacity.tidy(
        [capacity.plenty_in("rome"), capacity.plenty_in("milan"), capacity.none_in("paris")]
    )

    assert [known.available_bytes for known in rooms] == [capacity.PLENTY_BYTES] * 2 + [0]


def test_one_selector_has_one_room_the_larger_one() -> None:
    rooms = capacity.tidy([room("rome", GIB), room("rome", 2 * GIB), capacity.none_in("rome")])

    assert [known.available_bytes for known in rooms] == [2 * GIB]


def test_a_cluster_has_the_room_of_its_best_part() -> None:
    best = capacity.best_of("milan", [room("x", 9 * GIB, largest=GIB), room("y", 2 * GIB)])

    assert best == room("milan", 2 * GIB)


def test_a_cluster_without_parts_has_no_room() -> None:
    assert capacity.best_of("milan", []) == capacity.none_in("milan")


def test_a_selector_of_every_node_stays_within_its_cluster() -> None:
    said = objects.StorageCapacity(
        metadata=objects.Metadata(), node_topology=objects.LabelSelector(), capacity="1Gi"
    )

    mirrored = capacity.mirror(said, "rome")

    assert mirrored is not None
    assert affinity.selects(mirrored.selector, {names.CLUSTER_KEY: "rome", "a": "b"})
    assert not affinity.selects(mirrored.selector, {names.CLUSTER_KEY: "milan"})


def test_what_no_node_can_reach_is_not_mirrored() -> None:
    said = objects.StorageCapacity(metadata=objects.Metadata(), capacity="1Gi")

    assert capacity.mirror(said, "rome") is None


def test_sums_end_at_the_largest_number_of_csi() -> None:
    many = [capacity.plenty_in(str(number)) for number in range(20)]

    assert capacity.total(many) == (capacity.MOST_BYTES, capacity.PLENTY_BYTES)


def test_names_differ_by_all_that_is_immutable() -> None:
    rome, milan = capacity.select_cluster("rome"), capacity.select_cluster("milan")
    made = {
        capacity.object_name(*parts)
        for parts in (("d", "c", rome), ("d", "c", milan), ("d", "e", rome), ("e", "c", rome))
    }

    assert len(made) == 4


def test_nothing_is_written_that_is_said_already() -> None:
    owner = objects.OwnerReference(kind="CSIDriver", name=DRIVER.name, uid="d1")
    said = objects.StorageCapacity(
        metadata=objects.Metadata(uid="c1", owner_references=(owner,)), capacity="1024Mi"
    )

    assert capacity.forge_change(said, room("rome", GIB), DRIVER) == {}
    changed = capacity.forge_change(said, room("rome", GIB, largest=5), DRIVER)
    assert (changed["capacity"], changed["maximumVolumeSize"]) == ("1Gi", "5")


def test_an_object_of_an_earlier_installation_is_taken_over() -> None:
    said = objects.StorageCapacity(metadata=objects.Metadata(uid="c1"), capacity="1Gi")

    changed = capacity.forge_change(said, room("rome", GIB), DRIVER)

    assert changed["metadata"]["ownerReferences"][0]["uid"] == "d1"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1 << 60, "1Ei"), (5 * GIB, "5Gi"), (1025, "1025"), (1536, "1536")]
)
def test_a_size_reads_as_people_write_it(size: int, text: str) -> None:
    assert quantities.to_text(size) == text
    assert quantities.to_bytes(text) == size
