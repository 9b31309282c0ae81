"""The gate lets pass what its rules allow, fails what they do not, and refuses what cannot be compared."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gate.compare import (
    GateInputError,
    GateOutcome,
    GateRule,
    Side,
    compare,
    read_baseline,
    read_run,
    write_baseline,
)
from bench.gate.report import as_json, as_junit, as_markdown
from reports.record import Record, write_records

DEFAULTS: dict[str, Any] = {
    "run": "r",
    "suite": "s",
    "experiment": "e",
    "case": {"method": "split"},
    "metric": "accuracy",
    "unit": "",
    "seed": 0,
    "mode": "in-process",
    "scale": "smoke",
    "dataset": "digits",
    "shaping": "none",
    "device": "cpu",
}
RULES = [
    GateRule(metric="accuracy", tolerance=0.01, direction="lower-is-worse"),
    GateRule(metric="*_bytes", relative=0.05, direction="higher-is-worse"),
    GateRule(metric="cut"),
]


def record(value: float, **fields: Any) -> Record:
    return Record(**{**DEFAULTS, "value": value, **fields})


def up_bytes(value: float, **fields: Any) -> Record:
    return record(value, metric="up_bytes", unit="bytes", **fields)


def side(*records: Record, rules: list[GateRule] = RULES, **fields: Any) -> Side:
    return Side(name="x", records=list(records), **{"rules": {"s": rules}, "suites": {"s": "abc"}, **fields})


def statuses(run: Side, baseline: Side) -> list[str]:
    return [outcome.status for outcome in compare(run, baseline)]


def run_folder(path: Path, records: list[Record], **suite: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_records(path / "records.jsonl", records)
    rules = msgspec.to_builtins(RULES)
    suites = [{"name": "s", "sha256": "abc", "gate": rules, **suite}]
    (path / "environment.json").write_text(json.dumps({"suites": suites}))
    return path


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (record(0.9), record(0.89), "ok"),
        (record(0.9), record(0.8899), "regression"),
        (record(0.9), record(0.99), "ok"),  # better is no regression
        (up_bytes(1000), up_bytes(1050), "ok"),
        (up_bytes(1000), up_bytes(1051), "regression"),
        (up_bytes(1000), up_bytes(1), "ok"),
        (record(3, metric="cut"), record(3, metric="cut"), "ok"),
        (record(3, metric="cut"), record(2, metric="cut"), "regression"),
        (record(3, metric="cut"), record(4, metric="cut"), "regression"),
        (up_bytes(0), up_bytes(1), "regression"),
    ],
)
def test_a_rule_allows_so_much_in_its_direction(before: Record, after: Record, status: str) -> None:
    assert statuses(side(after), side(before)) == [status]


def test_what_no_rule_names_is_not_gated_and_the_first_rule_counts() -> None:
    rules = [GateRule(metric="acc*", tolerance=1), *RULES]
    run = side(record(0.1), record(9, metric="loss"), rules=rules)
    assert statuses(run, side(record(0.9), record(1, metric="loss"))) == ["ok"]
    elsewhere = [GateRule(metric="*", experiment="other", tolerance=0), *RULES]
    assert statuses(side(record(0.89), rules=elsewhere), side(record(0.9))) == ["ok"]


def test_missing_numbers_fail_and_new_ones_are_listed() -> None:
    assert statuses(side(record(0.9)), side(record(0.9), up_bytes(1))) == ["ok", "missing"]
    assert statuses(side(record(0.9), up_bytes(1)), side(record(0.9))) == ["ok", "new"]
    assert statuses(side(record(0.9)), side(record(0.9), record(0.9, seed=1))) == ["ok", "missing"]
    assert statuses(side(record(0.9)), side(record(0.9), record(1, metric="m", suite="t"))) == [
        "ok",
        "missing",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "live"),
        ("scale", "laptop"),
        ("dataset", "cifar10"),
        ("shaping", "kernel"),
        ("device", "cuda"),
        ("seed", 7),
    ],
)
def test_other_conditions_are_refused(field: str, value: object) -> None:
    with pytest.raises(GateInputError, match=f"{field}.* in the baseline"):
        compare(side(record(0.9, **{field: value})), side(record(0.9)))


def test_seeds_that_only_overlap_were_asked_for_differently() -> None:
    with pytest.raises(GateInputError, match=r"seeds \[1, 2\], in the baseline \[0, 1\]"):
        compare(side(record(1, seed=1), record(1, seed=2)), side(record(1), record(1, seed=1)))


def test_another_suite_is_refused_where_its_hash_is_known() -> None:
    other = side(record(0.9), suites={"s": "def"})
    with pytest.raises(GateInputError, match="suite s has changed"):
        compare(side(record(0.9)), other)
    assert statuses(side(record(0.9)), side(record(0.9), suites={})) == ["ok"]
    with pytest.raises(GateInputError, match="no suite in common"):
        compare(side(record(0.9)), side(record(0.9, suite="t")))


@pytest.mark.parametrize("unit", ["s", "ms", "pictures/s"])
def test_a_rule_for_a_time_is_refused(unit: str) -> None:
    slow = record(1, metric="latency", unit=unit)
    rules = [*RULES, GateRule(metric="lat*", relative=0.5)]
    with pytest.raises(GateInputError, match="gate a ratio of two times"):
        compare(side(record(0.9), slow, rules=rules), side(record(0.9)))


def test_a_time_on_a_virtual_clock_is_no_machine_s_and_may_be_gated() -> None:
    before, after = (record(value, metric="latency", unit="s", mode="virtual") for value in (1.0, 1.5))
    assert statuses(side(after, rules=[GateRule(metric="latency")]), side(before)) == ["regression"]


def test_a_gate_that_gates_nothing_is_refused() -> None:
    with pytest.raises(GateInputError, match="no rule"):
        compare(side(record(0.9), rules=[]), side(record(0.9)))


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1e-3, 1e3))
def test_worse_never_passes_where_better_fails(base: float, change: float, more: float, tolerance: float) -> None:
    rules = [GateRule(metric="accuracy", tolerance=tolerance)]

    def failed(by: float) -> bool:
        return compare(side(record(base + by), rules=rules), side(record(base)))[0].failed

    assert failed(change + more) >= failed(change)


def test_a_baseline_that_was_written_is_read_and_passes(tmp_path: Path) -> None:
    records = [record(0.9), up_bytes(10), record(1.5, metric="latency", unit="s")]
    run = read_run(run_folder(tmp_path / "run", records))
    assert write_baseline(tmp_path / "baseline.jsonl", run) == 2
    lines = (tmp_path / "baseline.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"gate": 1, "suites": {"s": "abc"}}
    assert len(lines) == 3
    assert statuses(run, read_baseline(tmp_path / "baseline.jsonl")) == ["ok", "ok"]


def test_the_records_of_a_run_are_a_baseline(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [record(0.9), record(1.5, metric="latency", unit="s")])
    assert statuses(read_run(folder), read_baseline(folder / "records.jsonl")) == ["ok"]


def test_no_baseline_is_made_of_a_run_that_failed_or_gates_nothing(tmp_path: Path) -> None:
    failed = run_folder(tmp_path / "a", [record(0.9)], experiments=[{"name": "e2", "status": "failed"}])
    with pytest.raises(GateInputError, match="e2 failed"):
        write_baseline(tmp_path / "baseline.jsonl", read_run(failed))
    nothing = run_folder(tmp_path / "b", [record(0.9)], gate=[])
    with pytest.raises(GateInputError, match="no rule"):
        write_baseline(tmp_path / "baseline.jsonl", read_run(nothing))
    assert not (tmp_path / "baseline.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no records"),
        ('{"gate": 1, "suites": {}}\n', "no records"),
        ('{"gate": 2, "suites": {}}\n', "gate version 2"),
        ('{"gate": 1, "suites": {}}\nnonsense\n', r"baseline.jsonl:2: "),
        ('{"schema": 9}\n', r"baseline.jsonl:1: "),
    ],
)
def test_a_baseline_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "baseline.jsonl").write_text(text)
    with pytest.raises(GateInputError, match=message):
        read_baseline(tmp_path / "baseline.jsonl")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateInputError, match=r"environment\.json"):
        read_run(tmp_path)
    (tmp_path / "environment.json").write_text('{"suites": []}')
    with pytest.raises(GateInputError, match=r"records\.jsonl"):
        read_run(tmp_path)
    with pytest.raises(GateInputError, match=r"baseline\.jsonl"):
        read_baseline(tmp_path / "baseline.jsonl")


@pytest.fixture
def outcomes() -> list[GateOutcome]:
    """One of every status."""
    baseline = side(record(0.9), up_bytes(10), record(3, metric="cut"))
    return compare(side(record(0.5), up_bytes(10), record(1, metric="down_bytes", case={"a|b": "<x>"})), baseline)


def test_junit_has_a_test_case_for_every_number(outcomes: list[GateOutcome]) -> None:
    (suite,) = ET.fromstring(as_junit(outcomes))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "2", "1")
    found = {case.get("name"): [child.tag for child in case] for case in suite}
    assert found == {
        "accuracy [method=split] seed 0": ["failure"],
        "up_bytes [method=split] seed 0": [],
        "cut [method=split] seed 0": ["failure"],
        "down_bytes [a|b=<x>] seed 0": ["skipped"],
    }
    (failure,) = suite[0]
    assert failure.get("message") == "s/e/accuracy (method=split), seed 0: 0.9 -> 0.5, allowed 0.01"


def test_the_summary_shows_what_moved_regressions_first(outcomes: list[GateOutcome]) -> None:
    text = as_markdown(outcomes)
    assert text.startswith("# Gate: failed\n\n4 numbers: 1 regression, 1 missing, 1 new, 1 ok.\n")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("| ")][2:] == [
        "regression",
        "missing",
        "new",
    ]
    assert "up_bytes" not in text
    assert r"a\|b=\<x\>" in text
    assert as_markdown(outcomes[1:2]) == "# Gate: passed\n\n1 numbers: 1 ok.\n"


def test_json_tells_whether_it_passed(outcomes: list[GateOutcome]) -> None:
    found = json.loads(json.dumps(as_json(outcomes)))
    assert found["passed"] is False
    assert found["counts"] == {"regression": 1, "missing": 1, "new": 1, "ok": 1}
    assert found["outcomes"][0]["measured"] == 0.5
    assert as_json(outcomes[1:2])["passed"] is True
