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
    CaseHash,
    GateInputError,
    GateRule,
    Side,
    compare,
    read_baseline,
    read_run,
    write_baseline,
)
from bench.gate.explain import explain
from bench.gate.report import CUT, as_benchmarks, as_json, as_junit, as_markdown, within_limit
from reports.record import SCHEMA, Record

DEFAULTS: dict[str, Any] = {
    "schema": SCHEMA,
    **{"run": "r", "suite": "s", "experiment": "e", "case": {"method": "split"}, "metric": "accuracy", "unit": ""},
    **{"seed": 0, "mode": "in-process", "scale": "smoke", "dataset": "digits", "shaping": "none", "device": "cpu"},
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


def cut(value: float, **fields: Any) -> Record:
    return record(value, metric="cut", **fields)


def side(*records: Record, rules: list[GateRule] = RULES, **fields: Any) -> Side:
    return Side(name="x", records=list(records), **{"rules": {"s": rules}, "suites": {"s": "abc"}, **fields})


def statuses(run: Side, baseline: Side) -> list[str]:
    return [outcome.status for outcome in compare(run, baseline)]


def run_folder(path: Path, records: list[Record], **suite: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(records))
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
        (record(0.9), record(0.8896), "regression"),  # by far less than the tolerance
        (up_bytes(1000), up_bytes(1050), "ok"),
        (up_bytes(1000), up_bytes(1051), "regression"),
        (up_bytes(1000), up_bytes(1), "ok"),
        (cut(3), cut(3), "ok"),
        (cut(3), cut(2), "regression"),
        (cut(3), cut(4), "regression"),
        (cut(3), cut(3.001), "regression"),
        (up_bytes(0), up_bytes(1), "regression"),
        (up_bytes(-1000), up_bytes(-950), "ok"),
        (up_bytes(-1000), up_bytes(-949), "regression"),
        (up_bytes(1000), up_bytes(1050.1), "regression"),
    ],
)
def test_a_rule_allows_so_much_in_its_direction(before: Record, after: Record, status: str) -> None:
    assert statuses(side(after), side(before)) == [status]


@pytest.mark.parametrize(
    "amounts",
    [{"tolerance": 0, "relative": 0.1}, {"tolerance": 1, "relative": 0}, {"tolerance": -1}, {"relative": -0.1}],
)
def test_a_rule_has_one_amount_that_is_not_negative(amounts: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gate accuracy: "):
        GateRule(metric="accuracy", **amounts)


def test_what_no_rule_names_is_not_gated_and_the_first_rule_counts() -> None:
    rules = [GateRule(metric="acc*", tolerance=1), *RULES]
    run = side(record(0.1), record(9, metric="loss"), rules=rules)
    assert statuses(run, side(record(0.9), record(1, metric="loss"))) == ["ok"]
    elsewhere = [GateRule(metric="*", experiment="other", tolerance=0), *RULES]
    assert statuses(side(record(0.89), rules=elsewhere), side(record(0.9))) == ["ok"]
    assert statuses(side(record(0.89, experiment="e2")), side(record(0.9, experiment="e2"))) == ["ok"]


def test_missing_numbers_fail_and_new_ones_are_listed_in_the_order_of_the_baseline() -> None:
    assert statuses(ONE, side(record(0.9), up_bytes(1))) == ["ok", "missing"]
    assert statuses(side(record(0.9), up_bytes(1)), ONE) == ["ok", "new"]
    assert statuses(ONE, side(record(0.9), record(0.9, seed=1))) == ["ok", "missing"]
    assert statuses(ONE, side(record(0.9), record(1, metric="m", suite="t"))) == ["ok", "missing"]
    cuts = [cut(value, case={"n": value}) for value in (1, 2, 3)]
    outcomes = compare(side(cuts[2], cuts[0], cut(4, case={"n": 4})), side(*cuts))
    assert [outcome.case["n"] for outcome in outcomes] == [1, 2, 3, 4]


ONE, BOTH = side(record(0.9)), side(record(0.9), record(0.9, device="cuda"))
OTHERS = {
    **{"mode": "live", "scale": "laptop", "dataset": "cifar10", "shaping": "kernel", "device": "cuda", "seed": 7},
    "precision": "bfloat16",
}
OVERLAPPING = side(record(1, seed=1), record(1, seed=2)), side(record(1), record(1, seed=1))


@pytest.mark.parametrize(
    ("run", "baseline", "words"),
    [
        *((side(record(0.9, **{field: value})), ONE, f"{field}.* in the baseline") for field, value in OTHERS.items()),
        (*OVERLAPPING, r"seeds \[1, 2\], in the baseline \[0, 1\]"),  # asked for differently
        (ONE, BOTH, r"device c.*, in the baseline c"),
        (BOTH, ONE, r"device c.*, in the baseline c"),
        (ONE, side(record(0.9), suites={"s": "def"}), "suite s: other parameters than in x"),
        (ONE, side(record(0.9, suite="t")), "no suite in common"),
        (side(record(0.9), rules=[]), ONE, "no rule"),
    ],
)
def test_what_cannot_be_compared_is_refused(run: Side, baseline: Side, words: str) -> None:
    with pytest.raises(GateInputError, match=words):
        compare(run, baseline)


def test_suites_are_compared_one_by_one_by_their_hashes_where_these_are_known() -> None:
    assert statuses(ONE, side(record(0.9), suites={})) == ["ok"]
    run = side(record(0.9), record(0.9, seed=1), record(1, suite="t"))
    assert statuses(run, side(record(0.9), record(1, suite="t"), record(1, suite="t", seed=2))) == ["ok", "new"]


@pytest.mark.promise(
    "Files", "a number stands twice in a run or a baseline", "`bench check` refuses with its lines, exit code 2"
)
def test_a_number_that_stands_twice_on_a_side_is_refused_with_its_lines(tmp_path: Path) -> None:
    mirrored = [cut(1), record(0.9), cut(3)]  # of which the mean is that of the other side
    for run, baseline in ((side(*mirrored), side(cut(2))), (side(cut(2)), side(*mirrored))):
        with pytest.raises(GateInputError, match="s/e/cut method=split seed 0"):
            compare(run, baseline)
    folder = run_folder(tmp_path / "run", mirrored)
    for read, path in ((read_run, folder), (read_baseline, folder / "records.jsonl")):
        with pytest.raises(GateInputError, match=r"records\.jsonl:3: s/e/cut method=split seed 0 .* line 1"):
            read(path)


def test_numbers_are_told_apart_by_case_and_seed() -> None:
    pairs: list[dict[str, Any]] = [{"case": {"a": 1, "b": 2}}, {"case": {"b": 2, "a": 2}}, {"case": {}, "seed": 1}]
    other_order = [{"case": {"b": 2, "a": 1}}, *pairs[1:]]
    numbers, again = (side(*(cut(n, **fields) for n, fields in enumerate(each))) for each in (pairs, other_order))
    found = [(outcome.baseline, outcome.status) for outcome in compare(again, numbers)]
    assert found == [(0, "ok"), (1, "ok"), (2, "ok")]


def test_the_largest_numbers_are_compared_and_bounds_without_an_end_refused() -> None:
    rules = [GateRule(metric="cut", relative=10.0)]
    (outcome,) = compare(side(cut(1.7e308), rules=rules), side(cut(1.6e308), rules=rules))
    assert outcome.status == "ok"
    assert json.loads(json.dumps(as_json([outcome]), allow_nan=False))["passed"]
    assert statuses(side(cut(1.7e308)), side(cut(-1.7e308))) == ["regression"]
    for bound in (float("inf"), float("nan"), -1.0):
        with pytest.raises(ValueError, match="finite, from 0 on"):
            GateRule(metric="cut", tolerance=bound)


def test_a_baseline_of_too_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gate.compare.MOST_LINES", 2)
    folder = run_folder(tmp_path / "run", [cut(1), cut(2, seed=1), cut(3, seed=2)])
    with pytest.raises(GateInputError, match="more than 2 lines"):
        read_baseline(folder / "records.jsonl")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "µs", "ns", "min", "h", "seconds", "pictures/s"])
def test_a_rule_for_a_time_is_refused_but_for_one_of_a_virtual_clock(unit: str) -> None:
    slow = record(1, metric="latency", unit=unit)
    rules = [*RULES, GateRule(metric="lat*", relative=0.5)]
    with pytest.raises(GateInputError, match="gate a ratio of two times"):
        compare(side(record(0.9), slow, rules=rules), ONE)
    before, after = (record(value, metric="latency", unit=unit, mode="virtual") for value in (1.0, 1.5))
    assert statuses(side(after, rules=[GateRule(metric="latency")]), side(before)) == ["regression"]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1e-3, 1e3))
def test_worse_never_passes_where_better_fails(base: float, change: float, more: float, tolerance: float) -> None:
    rules = [GateRule(metric="accuracy", tolerance=tolerance)]

    def failed(by: float) -> bool:
        return compare(side(record(base + by), rules=rules), side(record(base)))[0].failed

    assert failed(change + more) >= failed(change)


def test_a_baseline_that_was_written_of_what_is_gated_is_read_and_passes(tmp_path: Path) -> None:
    records = [record(0.9), up_bytes(10), record(1.5, metric="latency", unit="s"), record(1, metric="loss")]
    run, path = read_run(run_folder(tmp_path / "run", records)), tmp_path / "baseline.jsonl"
    assert write_baseline(path, run) == 2
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"gate": 1, "suites": {"s": "abc"}, "facts": {"suite s": "abc"}}
    assert len(lines) == 3
    baseline = read_baseline(path)
    assert [one.metric for one in baseline.records] == ["accuracy", "up_bytes"]
    assert baseline.suites == {"s": "abc"}
    for read in (baseline, read_baseline(tmp_path / "run/records.jsonl")):  # the records of a run are one too
        assert statuses(run, read) == ["ok", "ok"]


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
        ('{"gate": 0, "suites": {}}\n', "gate version 0"),
        ('{"schema": 9}\n', r"baseline.jsonl:1: "),
        ('{"suites": {}}\n', r"baseline.jsonl:1: "),
        ('{"gate": 1, "suites": {}}\n{"gate": 1, "suites": {}}\n', r"baseline.jsonl:2: "),
    ],
)
def test_a_baseline_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "baseline.jsonl").write_text(text)
    with pytest.raises(GateInputError, match=message):
        read_baseline(tmp_path / "baseline.jsonl")


def test_a_record_may_speak_of_the_gate_and_lines_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "baseline.jsonl"
    first, second = (msgspec.json.encode(record(0.9, case={"gate": True}, seed=seed)) for seed in (0, 1))
    path.write_bytes(b"\n" + first + b"\n\n" + second)
    assert [one.case for one in read_baseline(path).records] == [{"gate": True}] * 2
    assert read_baseline(path).suites == {}


@pytest.mark.parametrize(
    "environment",
    [
        *("nonsense", "[]", '{"suites": [{}]}', '{"suites": [3]}', '{"suites": ["s"]}'),
        *('{"suites": [{"name": "s", "experiments": [3]}]}', '{"suites": [{"name": "s", "gate": 1}]}'),
    ],
)
def test_an_environment_that_is_none_is_refused(tmp_path: Path, environment: str) -> None:
    (run_folder(tmp_path, [record(0.9)]) / "environment.json").write_text(environment)
    with pytest.raises(GateInputError, match="expected a file that `bench run` wrote"):
        read_run(tmp_path)


def test_what_an_environment_leaves_out_is_not_known(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [record(0.9)])
    (folder / "environment.json").write_text('{"suites": [{"name": "s"}]}')
    run = read_run(folder)
    assert (run.rules, run.suites, run.failed) == ({"s": []}, {}, [])
    skipped = run_folder(tmp_path, [record(0.9)], experiments=[{"name": "e2", "status": "skipped"}, {"name": "e3"}])
    assert read_run(skipped).failed == []


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateInputError, match=r"environment\.json"):
        read_run(tmp_path)
    (tmp_path / "environment.json").write_text('{"suites": []}')
    with pytest.raises(GateInputError, match=r"records\.jsonl"):
        read_run(tmp_path)
    with pytest.raises(GateInputError, match=r"baseline\.jsonl"):
        read_baseline(tmp_path / "baseline.jsonl")


@pytest.fixture
def outcomes() -> list[Any]:
    """One of every status."""
    baseline = side(record(0.9), up_bytes(10), cut(3))
    return compare(side(record(0.5), up_bytes(10), record(1, metric="down_bytes", case={"a|b": "<x>"})), baseline)


def test_junit_has_a_test_case_for_every_number(outcomes: list[Any]) -> None:
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


def test_the_summary_shows_what_moved_regressions_first(outcomes: list[Any]) -> None:
    text = as_markdown(outcomes)
    assert text.startswith("# Gate: failed\n\n4 numbers: 1 regression, 1 missing, 1 new, 1 ok.\n")
    rows = [line.split()[1] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["regression", "missing", "new"]
    assert "up_bytes" not in text
    assert r"a\|b=\<x\>" in text
    assert as_markdown(outcomes[1:2]) == "# Gate: passed\n\n1 numbers: 1 ok.\n"


def test_json_tells_whether_it_passed(outcomes: list[Any]) -> None:
    found = json.loads(json.dumps(as_json(outcomes)))
    assert found["passed"] is False
    assert found["counts"] == {"regression": 1, "missing": 1, "new": 1, "ok": 1}
    assert found["outcomes"][0]["measured"] == 0.5
    assert as_json(outcomes[1:2])["passed"] is True


def test_json_of_benchmarks_is_the_mean_over_seeds_by_which_way_is_better() -> None:
    now = side(record(0.5), record(0.7, seed=1), up_bytes(12), cut(3))
    found = compare(now, side(record(0.9), record(0.9, seed=1), up_bytes(10), cut(3), cut(4, case={})))
    assert as_benchmarks(found, bigger_is_better=True) == [
        {"name": "s/e/accuracy (method=split)", "unit": "1", "value": pytest.approx(0.6), "range": "± 0.1414"}
    ]
    assert as_benchmarks(found, bigger_is_better=False) == [
        {"name": "s/e/up_bytes (method=split)", "unit": "bytes", "value": 12},
        {"name": "s/e/cut (method=split)", "unit": "1", "value": 3},
    ]


def test_a_comment_is_cut_between_lines() -> None:
    lines = "".join(f"line {number}\n" for number in range(9000))
    assert within_limit("short") == "short"
    assert len(within_limit(lines)) <= 65_536
    kept = within_limit(lines).removesuffix(CUT)
    assert lines.startswith(f"{kept}\n")
    assert len(lines) > 65_536 > len(kept) > 65_000


def explained(now: CaseHash | None, **facts: str) -> str:
    """What is said of a number that got worse in a case of this hash, under these conditions."""
    key, before = 's/e{"method":"split"}', {"versions.torch": "2.11", "machine.cpu": "a"}
    baseline = side(record(0.9), cases={key: CaseHash("d", "c")}, facts=before)
    run = side(
        record(0.5, case={"method": "split", "part": 1}), record(0.5), cases={key: now} if now else {}, facts=facts
    )
    return explain(compare(run, baseline), run, baseline)


def test_what_changed_for_a_regression_is_told() -> None:
    same = explained(CaseHash("d", "c"), **{"versions.torch": "2.12", "machine.cpu": "a"})
    assert "By content the parameters, own code and data are the same:\n\n- s/e/accuracy (method=split), seed 0" in same
    assert "- versions.torch: 2.11 → 2.12" in same
    assert "machine" not in same
    assert "or the results version, have changed" in explained(CaseHash("d", "other"))
    assert "is not known of both" in explained(None)
    assert "All conditions that are recorded are the same" in explained(None, **{"versions.torch": "2.11"})
    assert "does not tell its conditions" in explained(None)


def test_nothing_is_explained_where_nothing_got_worse() -> None:
    assert explain(compare(ONE, ONE), ONE, ONE) == ""


def test_a_run_may_be_the_baseline(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [record(0.9)])
    assert statuses(read_run(folder), read_baseline(folder)) == ["ok"]


def test_control_characters_of_a_case_are_spelt_out_in_xml() -> None:
    outcomes = compare(side(record(0.8, case={"method": "\x1b[31m\x00\ud800"})), side(record(0.9)))
    (suite,) = ET.fromstring(as_junit(outcomes))
    assert suite[1].get("name") == "accuracy [method=\\x1b[31m\\x00\\xd800] seed 0"
