"""Every packaged suite asks for what it asked for when ``expanded.jsonl.gz`` was written, but for renamed words."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.execution.loader import packaged, read_suite
from bench.suite.schema import SCALES, SuiteFile, points
from bench.suite.strict_yaml import convert

FROZEN = Path(__file__).with_name("expanded.jsonl.gz")
# Words of the frozen listing and what they are called now: keys of a mapping, and texts anywhere.
KEYS = {"says": "statement", "whole_s": "model_compute_s", "rooms_bytes": "budget_bytes_per_sample"}
TEXTS = {"perhaps(imagenet100)": "optional(imagenet100)", "perhaps(stl10)": "optional(stl10)"}


def expanded(path: Path) -> dict[str, Any]:
    """All of a suite that decides or judges numbers, with every case at every scale, as plain values."""
    document = read_suite(path)
    suite = convert(document, SuiteFile)
    document.check()
    assert suite is not None
    experiments = []
    for spec in suite.experiments:
        scales = {}
        for scale in SCALES:
            here = spec.at(scale)
            scales[scale] = {
                "seeds": here.seeds,
                "estimate_s": here.estimate_s,
                "skip": here.skip,
                "cases": [[labels, here.parameters | values] for labels, values in points(here.grid)],
            }
        experiments.append(
            {
                "name": spec.name,
                "run": spec.run,
                "mode": spec.mode,
                "dataset": spec.dataset or suite.dataset,
                "parallel": spec.parallel,
                "figures": spec.figures,
                "scales": scales,
            }
        )
    plain = msgspec.json.encode(
        {
            "name": suite.name,
            "include": suite.include,
            "experiments": experiments,
            "claims": {claim.claim: claim for claim in suite.claims},  # in any order
            "gate": suite.gate,
            "fronts": suite.fronts,
        }
    )
    found: dict[str, Any] = json.loads(plain)
    return found


def frozen() -> list[dict[str, Any]]:
    """The listing as it was written, in today's words."""
    with gzip.open(FROZEN, "rt", encoding="utf-8") as file:
        return [renamed(json.loads(line)) for line in file]


def renamed(value: Any) -> Any:
    """``value`` in today's words."""
    if isinstance(value, dict):
        return {KEYS.get(key, key): renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return TEXTS.get(value, value) if isinstance(value, str) else value


LISTING = {suite["name"]: suite for suite in frozen()}


def test_the_packaged_suites_are_those_of_the_listing() -> None:
    assert packaged().keys() == LISTING.keys()


@pytest.mark.parametrize("name", LISTING)
def test_a_suite_expands_to_what_it_was(name: str) -> None:
    found, wanted = expanded(packaged()[name]), LISTING[name]
    assert [one["name"] for one in found["experiments"]] == [one["name"] for one in wanted["experiments"]]
    for now, then in zip(found["experiments"], wanted["experiments"], strict=True):
        assert now == then, now["name"]
    assert found["claims"].keys() == wanted["claims"].keys()
    for claim, then in wanted["claims"].items():
        assert found["claims"][claim] == then
    assert found == wanted
