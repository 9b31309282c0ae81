"""What a claim about learning needs before it is judged: data, training, a premise."""

from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import pytest

from reports.claims.claim import Claim
from reports.claims.verdict import Judgement, judge
from reports.record import Record

Make = Callable[..., Record]
M = {"experiment": "e", "metric": "m"}
A, B = ({**M, "case": {"method": method}} for method in "ab")
FORMS = [
    {"paper": 0.8, "value": {"of": A, "tolerance": 0.1}},
    {"bound": {"of": A, "at_least": 0.7}},
    {"ratio": {"of": A, "over": B, "at_least": 1}},
    {"difference": {"of": A, "minus": B, "at_least": 0}},
    {"order": {"of": [B, A], "direction": "increasing"}},
]


def verdict(records: list[Record], **fields: Any) -> Judgement:
    own = {"claim": "c", "source": "Table I", "statement": "it holds", "deterministic": True}
    return judge(msgspec.convert({**own, **fields}, Claim), "s", records)


def both(make: Make, **fields: Any) -> list[Record]:
    return [make(value, case={"method": method}, **fields) for method, value in (("a", 0.8), ("b", 0.4))]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_needs_the_data_and_the_scale(record: Make, form: dict[str, Any]) -> None:
    conditions = product(("cifar10", "digits"), ("paper", "laptop"))
    found = [verdict(both(record, dataset=data, scale=scale), data="cifar10", **form) for data, scale in conditions]
    assert [one.verdict for one in found] == ["reproduced", *["not-comparable"] * 3]
    assert len({str(one.measured) for one in found}) == 1
    for dataset, expected in (("cifar10-jpeg", "reproduced"), ("cifar100", "not-comparable")):
        variant = both(record, dataset=dataset, scale="paper")
        assert verdict(variant, data="cifar10", **form).verdict == expected
    assert verdict(both(record), **form).verdict == "not-comparable"
    assert verdict(both(record), **form, needs_data=False).verdict == "reproduced"
    assert verdict(both(record), **form, scale="laptop").verdict == "reproduced"


@pytest.mark.parametrize("form", FORMS)
def test_every_side_was_trained_on_enough_pictures(record: Make, form: dict[str, Any]) -> None:
    def trained(*counts: int) -> list[Record]:
        sides = zip("ab", counts, strict=False)
        return [record(n, metric="trained_pictures", case={"method": method}) for method, n in sides]

    fields = {**form, "trained_pictures": 800_000}
    assert verdict(both(record) + trained(800_000, 900_000), **fields).verdict == "reproduced"
    assert verdict(both(record) + trained(799_999, 900_000), **fields).verdict == "not-comparable"
    assert verdict(both(record), **fields).verdict == "not-comparable"
    elsewhere = [msgspec.structs.replace(one, experiment="other") for one in trained(800_000, 800_000)]
    assert verdict(both(record) + elsewhere, **fields).verdict == "not-comparable"


def test_the_shortest_training_that_a_number_stems_from_counts(record: Make) -> None:
    def trained(count: int, **case: Any) -> Record:
        return record(count, metric="trained_pictures", case=case)

    def judged(case: dict[str, Any], *trainings: Record) -> str:
        bound = {"of": {**M, "case": case}, "at_least": 0.7}
        return verdict([record(0.8, case=case), *trainings], bound=bound, trained_pictures=100).verdict

    trainings = trained(100, target=1), trained(99, target=2), trained(101, channels=1)
    assert judged({"target": 1}, *trainings) == "reproduced"
    assert judged({"target": 1, "epoch": 3, "policy": "follow"}, *trainings) == "reproduced"
    assert judged({"target": 2, "epoch": 3}, *trainings) == "not-comparable"
    assert judged({}, *trainings) == "not-comparable"  # of all
    assert judged({"channels": 1, "target": 1}, *trainings) == "reproduced"
    assert judged({"target": True}, trained(100, target=1)) == "not-comparable"  # True is not 1
    assert judged({"target": 1}, record(100, seed=1, metric="trained_pictures", case={"target": 1})) == "not-comparable"


def test_a_claim_whose_premise_is_not_met_is_not_judged(record: Make) -> None:
    fields = {"difference": {"of": A, "minus": B, "at_least": 0}, "needs_data": False}
    for at_least, expected in ((0.8, "reproduced"), (0.81, "not-comparable")):
        found = verdict(both(record), **fields, premise={"of": A, "at_least": at_least})
        assert (found.verdict, found.measured) == (expected, 0.4)
    assert "premise" in found.why
    assert (
        verdict(both(record), **fields, premise={"of": {**A, "metric": "x"}, "at_least": 0}).verdict == "not-comparable"
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_claim_on_a_training_that_diverged_is_not_judged_by_the_seeds_that_remain(
    record: Make, form: dict[str, Any]
) -> None:
    fields = {**form, "scale": "laptop"}
    seeds = [one for seed in (0, 1, 2) for one in both(record, seed=seed)]
    ended = record(1, metric="diverged", seed=3, case={"method": "a", "round": 7})
    assert verdict(seeds, **fields).verdict == "reproduced"
    found = verdict([*seeds, ended], **fields)
    assert (found.verdict, found.measured) == ("not-run", None)
    assert "seed 3" in found.why
    other = record(1, metric="diverged", seed=3, case={"method": "c", "round": 7})
    assert verdict([*seeds, other], **fields).verdict == "reproduced"


def test_a_premise_that_diverged_in_one_seed_is_not_met(record: Make) -> None:
    bound = {"bound": {"of": A, "at_least": 0.7}, "needs_data": False, "premise": {"of": B, "at_least": 0.3}}
    ended = record(1, metric="diverged", seed=3, case={"method": "b", "round": 7})
    assert verdict(both(record), **bound).verdict == "reproduced"
    assert verdict([*both(record), ended], **bound).verdict == "not-comparable"
