"""Dominance against a comparison of all pairs; the report section of a Pareto front."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from reports.figures.canvas import Drawing
from reports.figures.figure import Figures
from reports.figures.pareto import FrontSpec, ParetoPoint, best_within_cost, measured_points, pareto_front
from reports.pages.document import Paragraph, Table
from reports.pages.pareto_section import pareto_section
from reports.record import Record

Make = Callable[..., Record]

SPEC = {
    "title": "All",
    "cost": "bytes",
    "worth": "accuracy",
    "methods": [
        {"name": "plain", "experiment": "one", "cost": "b", "worth": "a", "key": "stage", "reference": True},
        {"name": "mine", "experiment": "two", "cost": "b", "worth": "a", "key": "share", "case": {"steered": True}},
        {"name": "some", "experiment": "one", "cost": "b", "worth": "a", "key": "stage", "only": ["4-C"]},
    ],
    "printed": [{"name": "theirs", "points": {"4-C": [64, 0.9], "2-C": [30, 0.5]}}],
}


def points(make: Make) -> list[Record]:
    places = [("one", {"stage": "4-C"}, 64, 0.6), ("one", {"stage": "12-C"}, 192, 0.8)]
    places += [("two", {"share": 0.2, "steered": True}, 60, 0.7), ("two", {"share": 0.2, "steered": False}, 1, 0.9)]
    return [
        make(value + (seed if metric == "a" else 0) / 10, experiment=experiment, case=case, metric=metric, seed=seed)
        for experiment, case, cost, worth in places
        for metric, value in (("b", cost), ("a", worth))
        for seed in (-1, 1)
    ]


def test_no_point_dominates_one_of_the_front():
    draw = random.Random(0)
    spots = [ParetoPoint("m", str(i), draw.randint(1, 9), draw.randint(1, 9)) for i in range(40)]
    for one, other in itertools.permutations(spots, 2):
        expected = one.cost <= other.cost and one.worth >= other.worth and one[2:4] != other[2:4]
        assert one.dominates(other) == expected
    expected = [one for one in spots if not any(other.dominates(one) for other in spots)]
    found = pareto_front(spots)
    assert sorted(found) == sorted(expected)
    assert [spot.cost for spot in found] == sorted(spot.cost for spot in found)


def test_the_best_within_a_cost_has_most_worth_then_least_cost():
    spots = [ParetoPoint("m", "a", 5, 1), ParetoPoint("m", "b", 3, 1), ParetoPoint("m", "c", 9, 2)]
    assert [best_within_cost(spots, cost) for cost in (2, 4, 5, 9)] == [None, spots[1], spots[1], spots[2]]


def test_points_are_means_of_the_cases_with_both_metrics(record: Make):
    found = measured_points(msgspec.convert(SPEC, FrontSpec), points(record))
    rounded = {name: [(spot.name, spot.cost, round(spot.worth, 9)) for spot in spots] for name, spots in found.items()}
    assert rounded == {
        "plain": [("4-C", 64, 0.6), ("12-C", 192, 0.8)],
        "mine": [("0.2", 60, 0.7)],
        "some": [("4-C", 64, 0.6)],
    }
    assert found["mine"][0].deviation == 0  # of two seeds


def test_the_report_says_what_dominates_the_references_and_the_paper(record: Make, tmp_path: Path):
    figures = Figures(tmp_path)
    records = [*points(record), record(1, metric="b", mode="live", experiment="other")]
    blocks = list(pareto_section(figures, "all", SPEC, records))
    lines = [block.words for block in blocks if isinstance(block, Paragraph)]
    assert "Against the references measured here: the other methods dominate 1 of 2." in lines
    assert "Against the paper's own points: the other methods dominate 0 of 2." in lines
    _, references, _ = [block for block in blocks if isinstance(block, Table)]
    assert references.rows[0] == ["plain", "4-C", "64", "0.6", "mine", "0.2", "60", "+0.100", "yes"]
    assert len(list((tmp_path / "figures").iterdir())) == 1
    assert not list(pareto_section(figures, "none", SPEC, [record(1, metric="b")]))
    (note,) = pareto_section(figures, "wrong", {"title": 3}, records)
    assert "no front" in note.words


@pytest.mark.parametrize(("data", "shown"), [("digits", True), ("cifar10", False), (None, True)])
def test_the_papers_points_are_drawn_and_compared_only_beside_results_on_their_data(
    record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str | None, shown: bool
):
    drawn = []
    monkeypatch.setattr(
        "reports.pages.pareto_section.draw_front", lambda *arguments: drawn.append(arguments) or [Drawing(9, 9)]
    )
    blocks = list(pareto_section(Figures(tmp_path), "all", {**SPEC, "data": data}, points(record)))
    lines = [block.words for block in blocks if isinstance(block, Paragraph)]
    ((_, measured, published, _),) = drawn
    assert measured.keys() == {"plain", "mine", "some"}
    assert {name: [spot[1:4] for spot in spots] for name, spots in published.items()} == (
        {"theirs": [("4-C", 64, 0.9), ("2-C", 30, 0.5)]} if shown else {}
    )
    assert any("the paper's own points" in line for line in lines) == shown
    assert (f"The paper's points are of {data}, these of digits: not comparable." in lines) != shown
