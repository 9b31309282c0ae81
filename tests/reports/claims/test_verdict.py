"""Verdicts from records without noise: forms, cases, conditions, and the limits of each."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from reports.claims.claim import Claim
from reports.claims.verdict import Judgement, judge, judge_all
from reports.record import Record

Make = Callable[..., Record]
M = {"experiment": "e", "metric": "m"}
A, B, C = ({**M, "case": {"method": method}} for method in "abc")


def claim(**fields: Any) -> Claim:
    """A claim about something without noise, on any data, unless ``fields`` say otherwise."""
    exact = {"deterministic": True, "needs_data": False}
    return msgspec.convert({"claim": "c", "source": "Table I", "statement": "it holds", **exact, **fields}, Claim)


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


NEAR = {"paper": 0.828, "value": {"of": M, "tolerance": 0.02}}


def test_a_judgement_has_the_fields_of_claims_json(record: Make) -> None:
    found = msgspec.json.decode(msgspec.json.encode(verdict(seeds(record, 0.83), **NEAR, **{"class": "ours"})))
    keys = "suite claim class source says paper measured verdict why reference headline form wanted unit of data"
    assert list(found) == keys.split()
    assert (found["form"], found["wanted"], found["of"][0]["metric"]) == ("value", "0.808 to 0.848", M["metric"])
    assert (found["measured"], found["paper"], found["class"]) == (0.83, 0.828, "ours")
    assert found["why"] == "0.83 without noise: within 0.02 of the paper's 0.828."
    assert verdict([record(0.5)], **NEAR).why == "0.5 without noise: not within 0.02 of the paper's 0.828."


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.848, "reproduced"), (0.808, "reproduced"), (0.8481, "not-reproduced"), (0.8, "not-reproduced")],
)
def test_a_value_lies_within_its_tolerance(record: Make, value: float, expected: str) -> None:
    assert verdict([record(value)], **NEAR).verdict == expected


def test_the_limit_of_a_tolerance_is_inside_and_may_be_a_fraction_of_the_papers_number(record: Make) -> None:
    assert 0.7 + 0.1 < 0.8  # in binary
    near = {"paper": 0.7, "value": {"of": M, "tolerance": 0.1}}
    assert verdict([record(0.8)], **near).verdict == "reproduced"
    fields = {"paper": -200, "value": {"of": M, "relative": 0.05}}
    assert {verdict([record(value)], **fields).verdict for value in (-190, -195, -205)} == {"reproduced"}
    assert verdict([record(-189)], **fields).verdict == "not-reproduced"


def test_a_claim_is_judged_by_its_worst_case(record: Make) -> None:
    records = methods(record, a=[0.9], b=[0.75], c=[0.8])
    found = verdict(records, bound={"of": M, "at_least": 0.75})
    assert (found.verdict, found.measured) == ("reproduced", 0.75)
    assert "Worst of 3 cases, method=b" in found.why
    assert verdict(records, bound={"of": M, "at_least": 0.76}).verdict == "not-reproduced"
    assert verdict(records, bound={"of": M, "at_most": 0.8}).measured == 0.9


def test_a_trend_is_worse_than_a_reproduction(record: Make) -> None:
    records = [record(rate, case={"method": "a", "rate": rate}) for rate in (3, 2)]
    sides = {"of": A, "over": B}
    found = verdict([*records, *methods(record, b=[1])], ratio={**sides, "at_least": 3})
    assert (found.verdict, found.measured) == ("trend", 2)
    assert (
        found.why
        == "Worst of 2 cases, rate=2: 2 without noise (2 over 1): above 1 beyond its noise, but not at least 3."
    )


def test_a_ratio_is_computed_seed_by_seed_of_both_sides(record: Make) -> None:
    records = methods(record, a=[2, 20, 200], b=[1, 10, 100])
    found = verdict(records, paper=2, ratio={"of": A, "over": B, "tolerance": 0.01})
    assert (found.verdict, found.measured) == ("reproduced", 2)
    assert found.why.startswith("2 over 3 seeds (74 over 37): ")
    records = [*methods(record, a=[2, 4], b=[1, 2]), record(1000, seed=7, case={"method": "a"})]
    assert verdict(records, ratio={"of": A, "over": B, "at_most": 2}).verdict == "reproduced"
    records = [record(4, seed=0, case={"method": "a"}), record(2, seed=1, case={"method": "b"})]
    found = verdict(records, difference={"of": A, "minus": B, "at_least": 2})
    assert (found.verdict, found.measured) == ("reproduced", 2)


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
    found = verdict(methods(record, a=[1], b=[0]), ratio={"of": A, "over": B, "at_most": 2})
    assert (found.verdict, found.measured) == ("not-reproduced", None)
    assert "denominator" in found.why
    records = by_rate(record, {1: (1, 0), 10: (100, 1)})
    assert verdict(records, ratio={"of": A, "over": B, "at_most": 2}).measured is None


def test_a_value_a_bound_or_equality_has_no_direction_to_be_a_trend(record: Make) -> None:
    records = seeds(record, 1.0)
    found = [verdict(records, bound={"of": M, "at_least": 2})]
    found.append(verdict(records, paper=2, value={"of": M, "tolerance": 0.1}))
    for value in (1.5, 0.5):
        sides = methods(record, a=[value], b=[1])
        found.append(verdict(sides, paper=1, ratio={"of": A, "over": B, "tolerance": 0.1}))
    assert [one.verdict for one in found] == ["not-reproduced"] * 4


ORDER = {"order": {"of": [A, B, C], "direction": "increasing"}}


def test_an_order_holds_at_every_step_and_shows_its_worst(record: Make) -> None:
    falling = {"order": {"of": [C, B, A], "direction": "decreasing"}}
    assert verdict(methods(record, a=[1], b=[2], c=[3]), **falling).verdict == "reproduced"
    assert verdict(methods(record, a=[1], b=[1], c=[3]), **falling).verdict == "trend"
    assert verdict(methods(record, a=[3], b=[4], c=[3]), **falling).verdict == "not-reproduced"
    found = verdict(methods(record, a=[3], b=[2.9], c=[1]), **ORDER)
    assert found.why == "3, 2.9, 1 without noise: not increasing at every step, one is -1.9 without noise."
    assert verdict(by_rate(record, {1: (1, 6, 5), 10: (3, 2.5, 2)}), **ORDER).measured == [3, 2.5, 2]


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
    for inconsistent in ("The text says 0.9.", {"says": "The text says 0.9.", "shown_by": "0.9 > 0.828"}):
        found = verdict([record(0.5)], **NEAR, inconsistent=inconsistent)
        assert (found.verdict, found.measured) == ("inconsistent-in-paper", 0.5)
        assert found.why.startswith("The text says 0.9.")
        assert verdict([], **NEAR, inconsistent=inconsistent).verdict == "inconsistent-in-paper"
    assert "(0.9 > 0.828)" in found.why


def test_a_failed_claim_is_impossible_only_beside_one_that_holds(record: Make) -> None:
    def claims(record_of: dict[str, float]) -> list[str]:
        records = [record(value, case={"method": method}) for method, value in record_of.items()]
        found = judge_all([cloud, single], "s", records)
        assert {one.claim for one in found} == {"cloud", "single"}
        assert all("cloud: No input" in one.why for one in found if one.verdict == "impossible-together")
        return [one.verdict for one in found]

    reason = {"claims": ["cloud"], "says": "No input gives both.", "shown_by": "181 / 115 < 1.6"}
    cloud = claim(claim="cloud", bound={"of": A, "at_least": 181})
    single = claim(claim="single", bound={"of": B, "at_most": 115}, impossible=reason)
    assert claims({"a": 181, "b": 120}) == ["reproduced", "impossible-together"]
    assert claims({"a": 180, "b": 120}) == ["not-reproduced", "not-reproduced"]
    assert claims({"a": 180, "b": 115}) == ["not-reproduced", "reproduced"]


@pytest.mark.parametrize(
    "other",
    [
        *({"mode": "live"}, {"scale": "paper"}, {"dataset": "cifar10"}, {"shaping": "kernel"}, {"device": "cuda"}),
        {"precision": "bfloat16"},
    ],
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
    assert verdict([one, cifar10], **split).verdict == "reproduced"
    assert verdict([one, cifar10], **split, needs_data=True).verdict == "not-run"
    assert verdict([one, cuda], **split).verdict == "not-run"


def test_units_are_never_merged_and_repeats_of_a_seed_count_once(record: Make) -> None:
    found = verdict([record(1, unit="s"), record(1, unit="ms", seed=1)], bound={"of": M, "at_least": 0})
    assert (found.verdict, found.why) == ("not-run", "Records that differ in unit (ms, s) are never merged.")
    records = [record(value) for value in (1, 2, 3)]
    assert verdict(records, bound={"of": M, "at_least": 2}).why == "2 without noise: at least 2."
