"""What the bench makes of its samples; nothing is measured here."""

from __future__ import annotations

import pathlib

import pytest

from bench import figures, inventory, process_facts, requests, table


def figure(group: str = "g", name: str = "n", target: float | None = 2.0) -> figures.Figure:
    return figures.Figure(group=group, name=name, unit="s", target=target, samples=[3.0, 1.0, 2.0])


def test_a_figure_has_median_minimum_and_maximum_of_its_runs() -> None:
    told = figure().as_json()

    assert (told["median"], told["min"], told["max"]) == (2.0, 1.0, 3.0)
    assert set(told) > {"name", "unit", "target", "met"}


@pytest.mark.parametrize(
    ("target", "met"),
    [
        pytest.param(2.0, True, id="reached"),
        pytest.param(1.9, False, id="missed"),
        pytest.param(None, None, id="nothing-asked"),
    ],
)
def test_a_target_is_met_by_the_median(target: float | None, met: bool | None) -> None:
    assert figure(target=target).as_json()["met"] is met


def test_a_floor_is_the_sum_of_its_parts_in_the_same_run() -> None:
    made = figures.against_floor(
        "g", "n", 1.15, [3.0, 8.0], {"real": [1.0, 2.0], "noop": [1.0, 2.0]}
    )

    assert list(made.samples) == [1.5, 2.0]
    assert made.parts["floor, s"] == [2.0, 4.0]


def test_what_is_measured_again_replaces_its_group_and_leaves_the_others() -> None:
    before = {"figures": [figure("a", "old").as_json(), figure("b").as_json()]}

    merged = figures.merge(before, {"machine": {}}, [figure("a", "new").as_json()])

    names = [(one["group"], one["name"]) for one in merged["figures"]]
    assert names == [("b", "n"), ("a", "new")]


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(100, 0.99, 99), (1, 0.99, 1), (1000, 0.99, 990), (2, 0.5, 1)],
)
def test_a_percentile_is_one_of_the_samples(count: int, share: float, expected: float) -> None:
    samples = [float(number) for number in range(count, 0, -1)]

    assert figures.percentile(samples, share) == expected


def test_requests_are_counted_by_the_flow_schemas_of_the_driver_alone() -> None:
    name = "apiserver_flowcontrol_dispatched_requests_total"
    metrics = (
        f"# TYPE {name} counter\n"
        f'{name}{{flow_schema="bench-create-claims",priority_level="workload-low"}} 7\n'
        f'{name}{{flow_schema="service-accounts",priority_level="workload-low"}} 9\n'
    )

    assert requests.counted(metrics) == {"create claims": 7}


def test_growth_is_linear_when_each_volume_takes_the_same() -> None:
    def start(mebibytes: float) -> inventory.Start:
        memory = process_facts.Memory(mebibytes, mebibytes)
        return inventory.Start(1.0, memory, 0.0)

    (growth,) = [
        made
        for made in inventory.figures_of(
            {1000: [start(60)], 5000: [start(80)], 10000: [start(105)]}
        )
        if "growth" in made.name
    ]

    assert growth.samples == pytest.approx([1.0])


def test_the_part_of_a_document_that_is_made_from_results_is_replaced(
    tmp_path: pathlib.Path,
) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    machine = {"processors": 2, "model": "m", "memory_gib": 4, "kernel": "k", "load_at_start": 0}
    results = {
        "machine": machine,
        "versions": {},
        "options": {},
        "figures": [figure(name="speed").as_json()],
    }

    table.put_into(document, results)
    table.put_into(document, results)

    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| speed | 2 | 1 | 3 | <= 2 | s | yes |") == 1
