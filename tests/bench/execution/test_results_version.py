"""Numbers of small cases are those of ``results.json``, or the results version was raised.

A change that is meant to alter numbers raises ``bench.suite.identity.RESULTS_VERSION``, so that no run is resumed with
numbers of both, and writes the file again: ``python tests/bench/execution/test_results_version.py``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench.execution.case import run_case
from bench.execution.plan import RunPlan, make_plan, options_of
from bench.gate.compare import TIMES
from bench.suite.identity import RESULTS_VERSION
from reports.record import Record

FROZEN = Path(__file__).with_name("results.json")
FIRST_CASES_OF = (  # of each way to make numbers one that takes less than a second
    *("pipeline/accuracy", "pipeline/unsplit", "cellular/mmwave", "hivemind/figure2", "hivemind/inference"),
    *("hivemind/recurrent", "hivemind/training", "dynsplit/size", "deprune/training", "deprune/coders"),
    *("edge_placement/placement", "edge_sl/schemes", "edge_sl/scaling"),
)
LEARNED = 0.02  # tolerance of numbers of a training, which kernels of other processors compute otherwise
COMPUTED = 1e-6


def planned() -> RunPlan:
    options = {"suites": ["all"], "scale": "smoke", "only": FIRST_CASES_OF, "device": "cpu"}
    return make_plan(options_of(options), checked=True)


def numbers(plan: RunPlan, name: str, scratch: Path) -> dict[str, tuple[float, float]]:
    """(value, tolerance) of what the first case of an experiment measures, but for times of this machine."""
    result = run_case(plan, plan.cases[name][0], "frozen", scratch, lambda _: None)
    assert not result.failure, result.traceback
    kept = (one for one in result.records if "quantile" not in one.metric)  # one number of each kind is enough
    return {key(one): (one.value, tolerance(one)) for one in kept if one.mode == "virtual" or not is_time(one)}


def is_time(record: Record) -> bool:
    return not {*TIMES}.isdisjoint(record.unit.split("/"))


def tolerance(record: Record) -> float:
    return COMPUTED if record.mode == "virtual" or record.unit in ("B", "B/sample") else LEARNED


def key(record: Record) -> str:
    return " ".join([f"{record.metric} ({record.unit})", *(f"{name}={value}" for name, value in record.case.items())])


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return planned()


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FROZEN.read_text(encoding="utf-8"))
    return found


def test_the_file_is_of_this_results_version(frozen: dict[str, Any]) -> None:
    assert frozen["results"] == RESULTS_VERSION, "the version was raised: write the file again"
    assert frozen["numbers"].keys() == set(FIRST_CASES_OF)


@pytest.mark.parametrize("name", FIRST_CASES_OF)
def test_numbers_are_those_of_this_results_version(
    plan: RunPlan, frozen: dict[str, Any], name: str, tmp_path: Path
) -> None:
    now, then = numbers(plan, name, tmp_path), frozen["numbers"][name]
    assert now.keys() == then.keys()
    close = {what: pytest.approx(value, rel=now[what][1], abs=now[what][1]) for what, value in then.items()}
    what_to_do = "if this is meant, raise bench.suite.identity.RESULTS_VERSION and write the file again"
    assert {what: value for what, (value, _) in now.items()} == close, what_to_do


if __name__ == "__main__":
    made = planned()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for one in FIRST_CASES_OF:
            found[one] = {
                what: value for what, (value, _) in numbers(made, one, Path(folder, one.replace("/", "-"))).items()
            }
    FROZEN.write_text(json.dumps({"results": RESULTS_VERSION, "numbers": found}, indent=1) + "\n", encoding="utf-8")
