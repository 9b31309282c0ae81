"""Claims in five forms, and the errors of invalid ones."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from reports.claims.claim import Claim

M = {"experiment": "e", "metric": "m"}


def claim(**fields: object) -> Claim:
    return msgspec.convert({"claim": "c", "source": "Table I", "statement": "it holds", **fields}, Claim)


@pytest.mark.parametrize(
    ("fields", "selectors"),
    [
        ({"paper": 1, "value": {"of": M, "tolerance": 0.1}}, 1),
        ({"paper": 1, "value": {"of": M, "relative": 0.1}, "data": "cifar10", "scale": "paper"}, 1),
        ({"bound": {"of": M, "at_least": 1}}, 1),
        ({"bound": {"of": M, "at_least": 1, "at_most": 2}}, 1),
        ({"paper": 3, "ratio": {"of": M, "over": M, "relative": 0.1}}, 2),
        ({"ratio": {"of": M, "over": M, "at_most": 0.5}}, 2),
        ({"paper": 3, "difference": {"of": M, "minus": M, "tolerance": 0.1}}, 2),
        ({"order": {"of": [M, M], "direction": "decreasing"}}, 2),
        ({"paper": [1, 2, 3], "order": {"of": [M, M, M], "direction": "increasing"}}, 3),
    ],
)
def test_each_form_is_accepted(fields: dict[str, object], selectors: int) -> None:
    assert len(claim(**fields).selectors) == selectors


SHOWN = {"says": "s", "shown_by": "2 > 1"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give exactly one of value, bound, ratio, difference, order; none given"),
        ({"bound": {"of": M, "at_least": 1}, "value": {"of": M, "tolerance": 1}, "paper": 1}, "value and bound"),
        ({"value": {"of": M, "tolerance": 1}}, "need the paper's number"),
        ({"value": {"of": M, "tolerance": 1}, "paper": [1, 2]}, "need the paper's number"),
        ({"value": {"of": M, "at_least": 1}, "paper": 1}, "a value takes tolerance or relative"),
        ({"value": {"of": M, "tolerance": 1, "relative": 1}, "paper": 1}, "one of tolerance and relative"),
        ({"value": {"of": M, "tolerance": -1}, "paper": 1}, "must not be negative, got -1"),
        ({"value": {"of": M, "relative": -0.5}, "paper": 1}, r"must not be negative, got -0\.5"),
        ({"bound": {"of": M, "tolerance": 1}, "paper": 1}, "a bound takes at_least"),
        ({"bound": {"of": M}}, "one of tolerance and relative"),
        ({"ratio": {"of": M, "over": M, "at_least": 1, "tolerance": 1}, "paper": 1}, "one of tolerance"),
        ({"order": {"of": [M], "direction": "increasing"}}, "two or more"),
        ({"value": {"of": M, "tolerance": 1}, "paper": 1, "needs_data": False, "data": "x"}, "needs data"),
        ({"bound": {"of": M, "at_least": 1}, "needs_data": False, "trained_pictures": 9}, "needs data"),
        ({"bound": {"of": M, "at_least": 1}, "class": "guess"}, "guess"),
        ({"bound": {"of": M, "at_least": 1}, "inconsistent": {"says": "s", "shown_by": "1 > 2"}}, "1 > 2 is false"),
        ({"bound": {"of": M, "at_least": 1}, "impossible": {"says": "s", "shown_by": "2 > 1"}}, "claims"),
        ({"bound": {"of": M, "at_least": 1}, "impossible": {**SHOWN, "claims": ["c"]}}, "names other claims"),
        ({"bound": {"of": M, "at_least": 1, "least": 1}}, "`least`"),  # an unknown field
    ],
)
def test_an_invalid_claim_is_rejected_with_its_error(fields: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        claim(**fields)


def test_the_claim_of_the_documentation_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs/verdicts.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (found,) = msgspec.convert(yaml.safe_load(block), list[Claim])
    assert found.impossible is not None
