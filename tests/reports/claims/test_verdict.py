"""Verdicts from records: forms, seeds, cases, conditions, and the limits of each."""

from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.claims.claim import Claim
from reports.claims.verdict import Judgement, judge
from reports.record import Record

Make = Callable[..., Record]
M = {"experiment": "e", "metric": "m"}
A, B, C = ({**M, "case": {"method": method}} for method in "abc")


def claim(**fields: Any) -> Claim:
    return msgspec.convert({"claim": "c", "source": "Table I", "statement": "it holds", **fields}, Claim)


def verdict(records: list[Record], **fields: Any) -> Judgement:
    return judge(claim(**fields), "s", records)


def seeds(make: Make, *values: float, **fields: Any) -> list[Record]:
    return [make(value, seed=seed, **fields) for seed, value in enumerate(values)]


def methods(make: Make, **values: list[float]) -> list[Record]:
    return [one for name, each in values.items() for one in seeds(make, *each, case={"method": name})]


def by_rate(make: Make, values: dict[int, tuple[float, ...]]) -> list[Record]:
    """A record of each of methods a, b and c, as far as there are values, at each rate."""
    return [
        make(value, case={"method": method, "rate": rate})
        for rate, each in values.items()
        for method, value in zip("abc", each, strict=False)
    ]


NEAR = {"paper": 0.828, "value": {"of": M, "tolerance": 0.02}, "needs_data": False}


def test_a_judgement_has_the_fields_of_claims_json_and_says_why_with_seeds_standard_error_and_tolerance(
    record: Make,
) -> None:
    found = msgspec.json.decode(msgspec.json.encode(verdict(seeds(record, 0.83), **NEAR)))
    assert list(found) == ["suite", "claim", "source", "says", "paper", "measured", "verdict", "why"]
    assert (found["measured"], found["paper"]) == (0.83, 0.828)
    found = verdict(seeds(record, 0.82, 0.83, 0.84), **NEAR)
    assert found.why == "0.83 over 3 seeds (standard error 0.005774): within 0.02 of the paper's 0.828."
    assert verdict([record(0.5)], **NEAR).why == "0.5 from one seed: not within 0.02 of the paper's 0.828."


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.848, "reproduced"), (0.808, "reproduced"), (0.8481, "not-reproduced"), (0.8, "not-reproduced")],
)
def test_a_value_lies_within_its_tolerance(record: Make, value: float, expected: str) -> None:
    assert verdict([record(value)], **NEAR).verdict == expected


def test_the_limit_of_a_tolerance_is_inside_and_may_be_a_fraction_of_the_papers_number(record: Make) -> None:
    assert 0.7 + 0.1 < 0.8  # in binary
    near = {"paper": 0.7, "value": {"of": M, "tolerance": 0.1}, "needs_data": False}
    assert verdict([record(0.8)], **near).verdict == "reproduced"
    fields = {"paper": -200, "value": {"of": M, "relative": 0.05}, "needs_data": False}
    assert {verdict([record(value)], **fields).verdict for value in (-190, -195, -205)} == {"reproduced"}
    assert verdict([record(-189)], **fields).verdict == "not-reproduced"


def test_a_value_needs_the_papers_data_and_scale(record: Make) -> None:
    """Claims without data and other forms are always comparable."""
    fields = {"paper": 0.8, "value": {"of": M, "tolerance": 0.1}}
    conditions = product(("cifar10", "digits"), ("paper", "laptop"))
    found = [verdict([record(0.8, dataset=d, scale=s)], data="cifar10", **fields) for d, s in conditions]
    assert [one.verdict for one in found] == ["reproduced", *["not-comparable"] * 3]
    assert [one.measured for one in found] == [0.8] * 4
    assert verdict([record(0.8)], **fields).verdict == "not-comparable"
    assert verdict([record(0.8)], **fields, needs_data=False).verdict == "reproduced"
    assert verdict([record(0.8)], **fields, scale="laptop").verdict == "reproduced"
    assert verdict([record(0.8)], bound={"of": M, "at_least": 0.9}).verdict == "not-reproduced"


def test_a_bound_is_judged_by_the_worst_case_and_a_trend_is_worse_than_a_reproduction(record: Make) -> None:
    records = methods(record, a=[0.9, 0.9], b=[0.7, 0.8], c=[0.8, 0.8])
    found = verdict(records, bound={"of": M, "at_least": 0.75})
    assert found.measured == pytest.approx(0.75)
    assert found.verdict == "reproduced"
    assert "Worst of 3 cases, method=b" in found.why
    assert verdict(records, bound={"of": M, "at_least": 0.76}).verdict == "not-reproduced"
    assert verdict(records, bound={"of": M, "at_most": 0.8}).measured == pytest.approx(0.9)
    by_rate = {1: (3, 3, 3), 10: (2, 2, 2)}
    records = [a for rate, each in by_rate.items() for a in seeds(record, *each, case={"method": "a", "rate": rate})]
    found = verdict([*records, *methods(record, b=[1, 1, 1])], ratio={"of": A, "over": B, "at_least": 3})
    assert found.verdict == "trend"


def test_a_ratio_is_computed_seed_by_seed_of_both_sides(record: Make) -> None:
    records = methods(record, a=[2, 20, 200], b=[1, 10, 100])
    found = verdict(records, paper=2, ratio={"of": A, "over": B, "tolerance": 0.01})
    assert (found.verdict, found.measured) == ("reproduced", 2)
    assert "(standard error 0)" in found.why
    records = [*methods(record, a=[2, 4], b=[1, 2]), record(1000, seed=7, case={"method": "a"})]
    assert verdict(records, ratio={"of": A, "over": B, "at_most": 2}).verdict == "reproduced"
    records = [record(4, seed=0, case={"method": "a"}), record(2, seed=1, case={"method": "b"})]
    found = verdict(records, difference={"of": A, "minus": B, "at_least": 2})
    assert (found.verdict, found.measured) == ("reproduced", 2)
    assert "no seed in common" in found.why


def test_both_sides_are_joined_by_their_other_case_keys(record: Make) -> None:
    records = by_rate(record, {1: (3, 1), 10: (30, 10)})
    found = verdict(records, paper=3, ratio={"of": A, "over": B, "tolerance": 0})
    assert found.verdict == "reproduced"
    assert "Worst of 2 cases" in found.why
    fixed = {**M, "case": {"method": "b", "rate": 1}}
    assert verdict(records, ratio={"of": A, "over": fixed, "at_most": 30}).measured == 30
    apart = [record(1, case={"method": method, "rate": rate}) for method, rate in (("a", 1), ("b", 10))]
    found = verdict(apart, difference={"of": A, "minus": B, "at_least": 0})
    why = "Both sides have records, but no case of one agrees with one of the other."
    assert (found.verdict, found.why) == ("not-run", why)


def test_a_zero_denominator_has_no_ratio_and_is_the_worst_case(record: Make) -> None:
    found = verdict(methods(record, a=[1, 1], b=[0, 1]), ratio={"of": A, "over": B, "at_most": 2})
    assert (found.verdict, found.measured) == ("not-reproduced", None)
    assert "denominator" in found.why
    records = by_rate(record, {1: (1, 0), 10: (100, 1)})
    assert verdict(records, ratio={"of": A, "over": B, "at_most": 2}).measured is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.5, 1.6, 1.7], "trend"),  # above 1 beyond noise, but not near 3
        ([1.5, 1.6], "not-reproduced"),  # two seeds show no trend
        ([0.5, 1.6, 2.4], "not-reproduced"),  # noise
        ([0.3, 0.4, 0.5], "not-reproduced"),  # the other direction
        ([2.9, 3.0, 3.1], "reproduced"),
    ],
)
def test_a_trend_is_a_direction_beyond_noise(record: Make, values: list[float], expected: str) -> None:
    records = methods(record, a=values, b=[1] * len(values))
    assert verdict(records, paper=3, ratio={"of": A, "over": B, "relative": 0.1}).verdict == expected
    assert verdict(records, ratio={"of": A, "over": B, "at_least": 2.5}).verdict == expected
    assert verdict(records, ratio={"of": B, "over": A, "at_most": 0.4}).verdict == expected
    assert verdict(records, paper=2, difference={"of": A, "minus": B, "tolerance": 0.3}).verdict == expected


def test_a_value_a_bound_or_equality_has_no_direction_to_be_a_trend(record: Make) -> None:
    records = seeds(record, 1.0, 1.01, 1.02)
    found = [verdict(records, bound={"of": M, "at_least": 2})]
    found.append(verdict(records, paper=2, value={"of": M, "tolerance": 0.1}, needs_data=False))
    for values in ([1.5, 1.6, 1.7], [0.5, 0.6, 0.7]):
        sides = methods(record, a=values, b=[1, 1, 1])
        found.append(verdict(sides, paper=1, ratio={"of": A, "over": B, "tolerance": 0.1}))
    assert [one.verdict for one in found] == ["not-reproduced"] * 4


ORDER = {"order": {"of": [A, B, C], "direction": "increasing"}}


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        ([1], [4], [3], "not-reproduced"),
        ([1, 2], [5, 3], [6, 9], "reproduced"),  # two seeds by their means, though the first step is within its noise
        ([1, 2, 3], [5, 3, 3], [6, 9, 12], "trend"),
        ([1, 1, 1], [2, 3, 4], [2.1, 4, 3.5], "trend"),  # one step is lost in noise
        ([1, 1, 1], [1, 1, 1], [2, 2.1, 2.2], "trend"),  # from first to last
        ([1, 9, 1], [2, 3, 4], [1, 9, 2], "not-reproduced"),
    ],
)
def test_an_order_holds_at_every_step(record: Make, a: list, b: list, c: list, expected: str) -> None:
    assert verdict(methods(record, a=a, b=b, c=c), **ORDER).verdict == expected


def test_an_order_shows_the_seeds_that_it_compares_and_its_worst_step(record: Make) -> None:
    sides = (([1, 2, 3], [2, 3, 4], [3, 4, 5], [2, 3, 4]), ([1, 9, 9], [2], [3], [1, 2, 3]))
    for a, b, c, means in sides:
        found = verdict(methods(record, a=a, b=b, c=c), **ORDER)
        assert (found.verdict, found.measured) == ("reproduced", means)
    falling = {"order": {"of": [C, B, A], "direction": "decreasing"}}
    assert verdict(methods(record, a=[1], b=[2], c=[3]), **falling).verdict == "reproduced"
    assert verdict(methods(record, a=[1], b=[1], c=[3]), **falling).verdict == "not-reproduced"
    found = verdict(methods(record, a=[3, 4], b=[2.9, 3.9], c=[1]), **ORDER)
    assert found.why == "3, 2.9, 1 from one seed: not increasing at every step, one is -1.9 from one seed."
    assert verdict(by_rate(record, {1: (1, 6, 5), 10: (3, 2.5, 2)}), **ORDER).measured == [1, 6, 5]


def test_a_claim_without_records_is_not_run(record: Make) -> None:
    others = [record(1, metric="other"), record(1, suite="t", case={"method": "a"})]
    found = verdict(others, bound={"of": A, "at_least": 0})
    assert (found.verdict, found.measured, found.why) == ("not-run", None, "No record of e/m with method=a.")
    half = methods(record, a=[1])
    assert verdict(half, difference={"of": A, "minus": B, "at_least": 0}).verdict == "not-run"
    true = {**M, "case": {"gated": True}}  # which is not one
    assert verdict([record(1, case={"gated": 1})], bound={"of": true, "at_least": 0}).verdict == "not-run"
    found = verdict([record(1), record(9, experiment="other")], bound={"of": M, "at_least": 0})
    assert (found.verdict, found.measured) == ("reproduced", 1)


def test_an_inconsistent_paper_is_named_beside_the_measurement(record: Make) -> None:
    fields = {**NEAR, "inconsistent": "The text says 0.9, the table 0.828."}
    found = verdict([record(0.5)], **fields)
    assert (found.verdict, found.measured) == ("inconsistent-in-paper", 0.5)
    assert found.why.startswith("The text says 0.9")
    assert verdict([], **fields).verdict == "inconsistent-in-paper"


@pytest.mark.parametrize(
    "other", [{"mode": "live"}, {"scale": "paper"}, {"dataset": "cifar10"}, {"shaping": "kernel"}, {"device": "cuda"}]
)
def test_records_of_different_conditions_are_never_merged(record: Make, other: dict[str, str]) -> None:
    found = verdict([record(1), record(1, seed=1, **other)], bound={"of": M, "at_least": 0})
    assert (found.verdict, found.measured) == ("not-run", None)
    assert f"differ in {next(iter(other))}" in found.why


def test_sides_may_differ_in_mode_and_in_data_if_the_claim_needs_none_but_not_in_scale(record: Make) -> None:
    live = [record(1, case={"method": "a"}, mode="live", shaping="emulated")]
    split = {"difference": {"of": A, "minus": B, "at_most": 0}}
    assert verdict([*live, record(1, case={"method": "b"})], **split).verdict == "reproduced"
    assert verdict([*live, record(1, case={"method": "b"}, scale="smoke")], **split).verdict == "not-run"
    one, cifar10, cuda = (
        record(1, case={"method": method}, **other)
        for method, other in (("a", {}), ("b", {"dataset": "cifar10"}), ("b", {"device": "cuda"}))
    )
    split = {"difference": {"of": A, "minus": B, "at_most": 0}}
    assert verdict([one, cifar10], **split, needs_data=False).verdict == "reproduced"
    assert verdict([one, cifar10], **split).verdict == "not-run"
    assert verdict([one, cuda], **split, needs_data=False).verdict == "not-run"


def test_units_are_never_merged_and_repeats_of_a_seed_count_once(record: Make) -> None:
    found = verdict([record(1, unit="s"), record(1, unit="ms", seed=1)], bound={"of": M, "at_least": 0})
    assert (found.verdict, found.why) == ("not-run", "Records that differ in unit (ms, s) are never merged.")
    records = [record(value) for value in (1, 2, 3)]
    assert verdict(records, bound={"of": M, "at_least": 2}).why == "2 from one seed: at least 2."


RANK = {"not-reproduced": 0, "trend": 1, "reproduced": 2}
number = st.floats(-100, 100, allow_nan=False)


@given(st.lists(number, min_size=3, max_size=5), st.floats(0.1, 50), st.floats(-50, 50))
def test_more_of_what_is_claimed_never_judges_worse(record: Make, values: list, more: float, limit: float) -> None:
    def rank(each: list[float]) -> int:
        records = methods(record, a=each, b=[0.0] * len(each))
        return RANK[verdict(records, difference={"of": A, "minus": B, "at_least": limit}).verdict]

    assert rank([value + more for value in values]) >= rank(values)


@given(number, number, st.floats(0, 50), st.floats(0, 50))
def test_a_wider_tolerance_never_judges_worse(record: Make, paper: float, value: float, a: float, b: float) -> None:
    def rank(tolerance: float) -> int:
        fields = {"paper": paper, "value": {"of": M, "tolerance": tolerance}, "needs_data": False}
        return RANK[verdict([record(value)], **fields).verdict]

    assert rank(a + b) >= rank(a)
