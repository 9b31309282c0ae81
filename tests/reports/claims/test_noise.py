"""Verdicts on noisy numbers, held against scipy's tests of Student's t."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from reports.claims.claim import Claim
from reports.claims.verdict import Judgement, judge
from reports.record import Record

Make = Callable[..., Record]
M = {"experiment": "e", "metric": "m"}
A, B, C = ({**M, "case": {"method": method}} for method in "abc")
ORDER = {"order": {"of": [A, B, C], "direction": "increasing"}}
values = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=6)


def verdict(records: list[Record], **fields: Any) -> Judgement:
    own = {"claim": "c", "source": "Table I", "statement": "it holds", "needs_data": False}
    return judge(msgspec.convert({**own, **fields}, Claim), "s", records)


def seeds(make: Make, each: list[float], **fields: Any) -> list[Record]:
    return [make(value, seed=seed, **fields) for seed, value in enumerate(each)]


def methods(make: Make, **sides: list[float]) -> list[Record]:
    return [one for name, each in sides.items() for one in seeds(make, each, case={"method": name})]


def of_spread(count: int, mean: float, deviation: float) -> list[float]:
    """``count`` numbers of exactly this mean and standard deviation."""
    line = [index - (count - 1) / 2 for index in range(count)]
    return [mean + deviation * value / statistics.stdev(line) for value in line]


@given(values, st.floats(-100, 100))
def test_a_limit_is_passed_where_students_test_says_so(record: Make, each: list[float], limit: float) -> None:
    assume(statistics.stdev(each) > 1e-6)
    above = stats.ttest_1samp(each, limit, alternative="greater").pvalue
    assume(min(abs(above - 0.025), abs(above - 0.975)) > 1e-6)
    expected = "reproduced" if above < 0.025 else "not-reproduced" if above > 0.975 else "inconclusive"
    assert verdict(seeds(record, each), bound={"of": M, "at_least": limit}).verdict == expected
    mirrored = {"of": M, "at_most": -limit}
    assert verdict(seeds(record, [-value for value in each]), bound=mirrored).verdict == expected


@given(values, st.floats(-100, 100), st.floats(0, 100))
def test_a_value_is_equal_where_the_confidence_interval_says_so(
    record: Make, each: list[float], paper: float, tolerance: float
) -> None:
    assume(statistics.stdev(each) > 1e-6)
    low, high = stats.t.interval(0.95, len(each) - 1, statistics.fmean(each), stats.sem(each))
    inside = paper - tolerance <= low and high <= paper + tolerance
    outside = high < paper - tolerance or low > paper + tolerance
    assume(min(abs(abs(limit - paper) - tolerance) for limit in (low, high)) > 1e-6)
    expected = "reproduced" if inside else "not-reproduced" if outside else "inconclusive"
    fields = {"paper": paper, "value": {"of": M, "tolerance": tolerance}}
    assert verdict(seeds(record, each), **fields).verdict == expected


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([1.5, 1.6, 1.7], "trend"),  # above 1 beyond noise, and too small for 3
        ([1.5, 1.6], "not-reproduced"),  # too small; with two seeds 0.95 to 2.05... of no sure direction
        ([0.5, 1.6, 2.4], "inconclusive"),
        ([0.3, 0.4, 0.5], "not-reproduced"),  # the other direction
        ([2.95, 3.0, 3.05], "reproduced"),
        ([3.0], "inconclusive"),  # one seed says nothing of its noise
    ],
)
def test_a_trend_is_a_direction_beyond_noise(record: Make, each: list[float], expected: str) -> None:
    records = methods(record, a=each, b=[1.0] * len(each))
    assert verdict(records, paper=3, ratio={"of": A, "over": B, "relative": 0.1}).verdict == expected
    assert verdict(records, paper=2, difference={"of": A, "minus": B, "tolerance": 0.3}).verdict == expected
    assert verdict(records, ratio={"of": A, "over": B, "at_least": 2.7}).verdict == expected


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        ([1], [2], [3], "inconclusive"),
        ([1, 1.1], [2, 2.1], [3, 3.1], "reproduced"),  # each step the same for both seeds
        ([1, 2], [5, 3], [6, 9], "inconclusive"),
        ([1, 1, 1], [2, 3, 4], [2.1, 4, 3.5], "inconclusive"),  # one step is lost in noise
        ([1, 1, 1], [1, 1, 1], [2, 2.1, 2.2], "trend"),  # one step is 0 for sure, from first to last it holds
        ([1, 1.1, 1.2], [2, 2.1, 2.2], [0, 0.1, 0.3], "not-reproduced"),
    ],
)
def test_an_order_holds_at_every_step(record: Make, a: list, b: list, c: list, expected: str) -> None:
    assert verdict(methods(record, a=a, b=b, c=c), **ORDER).verdict == expected


def test_an_order_shows_the_seeds_that_it_compares(record: Make) -> None:
    assert verdict(methods(record, a=[1, 2, 3], b=[2, 3, 4], c=[3, 4, 5]), **ORDER).measured == [2, 3, 4]
    assert verdict(methods(record, a=[1, 9, 9], b=[2], c=[3]), **ORDER).measured == [1, 2, 3]


LIMITS: list[dict[str, float]] = [
    {"at_least": 0.0},
    {"at_least": 1.0},
    {"at_least": -1.0, "at_most": 1.0},
    {"at_most": -1.0},
]
NEAR = [{"tolerance": 0.5}, {"relative": 0.2}]
FORMS: list[dict[str, Any]] = [
    *({"bound": {"of": A, **limits}} for limits in LIMITS),
    *({"paper": 2, "value": {"of": A, **near}} for near in NEAR),
    *({"ratio": {"of": A, "over": B, **limits}} for limits in LIMITS),
    *({"paper": 2, "ratio": {"of": A, "over": B, **near}} for near in NEAR),
    *({"difference": {"of": A, "minus": B, **limits}} for limits in LIMITS),
    *({"paper": -2, "difference": {"of": A, "minus": B, **near}} for near in NEAR),
    *({"order": {"of": [B, A], "direction": direction}} for direction in ("increasing", "decreasing")),
    *({"order": {"of": [B, A, C], "direction": direction}} for direction in ("increasing", "decreasing")),
]
RANK = {"not-reproduced": 0, "trend": 1, "reproduced": 2}


@pytest.mark.parametrize("form", FORMS, ids=str)
@settings(max_examples=25)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(-3, 3), st.floats(1e-3, 3), st.integers(1, 3))
def test_fewer_seeds_are_never_judged_better(  # noqa: PLR0917 - hypothesis gives them
    record: Make, form: dict[str, Any], few: int, more: int, mean: float, deviation: float, cases: int
) -> None:
    """Of one mean and spread, fewer seeds give no better verdict, and none where more seeds give none."""

    def judged(count: int) -> str:
        spread = of_spread(count, mean, deviation) if count > 1 else [mean]
        sides = {"a": spread, "b": [1.0] * count, "c": [2.5 + value / 2 for value in spread]}
        records = [
            record(value + (name == "a") * case, seed=seed, case={"method": name, "n": case})
            for name, each in sides.items()
            for case in range(cases)
            for seed, value in enumerate(each)
        ]
        return verdict(records, **form).verdict

    few, more = min(few, more), max(few, more)
    less, enough = judged(few), judged(more)
    if enough == "inconclusive":
        assert less == "inconclusive"
    elif less != "inconclusive":
        assert RANK[less] <= RANK[enough]


@given(st.integers(2, 6), st.floats(-3, 3), st.floats(1e-3, 3))
def test_the_seeds_that_would_decide_do(record: Make, count: int, mean: float, deviation: float) -> None:
    found = verdict(seeds(record, of_spread(count, mean, deviation)), bound={"of": M, "at_least": 1})
    assume(found.verdict == "inconclusive" and "About" in found.why)
    needed = int(found.why.split("About ")[1].split()[0])
    decided = [
        verdict(seeds(record, of_spread(n, mean, deviation)), bound={"of": M, "at_least": 1}).verdict
        for n in (needed - 1, needed)
    ]
    assert [one == "inconclusive" for one in decided] == [True, False]


def test_of_many_cases_one_fails_only_beyond_what_chance_gives_so_many(record: Make) -> None:
    """Each of 20 cases of noise alone fails in one of 40; all together must not do so more often."""

    def cases(count: int) -> list[Record]:
        sure = [record(5 + 0.01 * seed, seed=seed, case={"n": n}) for n in range(1, count) for seed in range(3)]
        return [*seeds(record, [-0.5, -1.0, -1.5], case={"n": 0}), *sure]

    low, high = stats.t.interval(1 - 0.05 / 20, 2, -1.0, stats.sem([-0.5, -1.0, -1.5]))
    assert low < 0 < high
    assert stats.ttest_1samp([-0.5, -1.0, -1.5], 0).pvalue > 0.05
    assert verdict(cases(1), bound={"of": M, "at_least": 0.4}).verdict == "not-reproduced"
    assert verdict(cases(20), bound={"of": M, "at_least": 0.4}).verdict == "inconclusive"


def test_what_is_said_to_be_deterministic_but_varies_has_noise_all_the_same(record: Make) -> None:
    for each, expected in (([1.0], "reproduced"), ([1.0, 1.0], "reproduced"), ([1.0, 3.0], "inconclusive")):
        fields = {"bound": {"of": M, "at_least": 0.5}, "deterministic": True}
        assert verdict(seeds(record, each), **fields).verdict == expected


def test_sums_in_another_order_are_no_noise(record: Make) -> None:
    each = [0.1 + 0.2, 0.3, math.fsum([0.1, 0.2])]
    assert len(set(each)) > 1
    assert verdict(seeds(record, each), bound={"of": M, "at_least": 0.3}).verdict == "reproduced"


def test_the_reason_gives_the_interval_and_the_seeds_that_would_decide(record: Make) -> None:
    near = {"paper": 0.828, "value": {"of": M, "tolerance": 0.02}}
    found = verdict(seeds(record, [0.826, 0.83, 0.834]), **near)
    low, high = stats.t.interval(0.95, 2, 0.83, stats.sem([0.826, 0.83, 0.834]))
    assert found.why == f"0.83 over 3 seeds ({low:.4g} to {high:.4g}): within 0.02 of the paper's 0.828."
    found = verdict(seeds(record, [0.82, 0.83, 0.84]), **near)
    assert found.why.endswith(": within 0.02 of the paper's 0.828? About 4 seeds would decide.")
    found = verdict([record(0.83)], **near)
    assert (
        found.why
        == "0.83 from one seed: within 0.02 of the paper's 0.828? The noise is not known; 3 seeds would tell it."
    )
