"""``bench compare``: differences, errors and intervals by hand, conditions named, nothing pooled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_records import made

from bench.cli.main import main
from bench.gate.conditions import facts
from bench.results.comparison_page import as_html, as_markdown
from bench.results.paired import Row, Side, compare
from reports.record import Record

Write = Callable[..., Path]


def rows(before: list[Record], after: list[Record]) -> list[Row]:
    return compare(Side("a", before), Side("b", after)).rows


def seeds(metric: str, *values: float, **fields: Any) -> list[Record]:
    return [made(metric, value, seed, **fields) for seed, value in enumerate(values)]


def test_a_difference_is_paired_by_seed_with_students_interval() -> None:
    (row,) = rows(seeds("m", 10, 20, 30), seeds("m", 11, 22, 33))
    assert (row.before, row.after, row.difference, row.seeds) == (20, 22, 2, 3)
    assert row.error == pytest.approx(1 / 3**0.5)  # the deviation of 1, 2, 3 is 1
    margin = 4.302652729911275 / 3**0.5  # Student's t of two degrees of freedom, from a table
    assert row.interval == pytest.approx((2 - margin, 2 + margin))
    assert row.change == "within-noise"  # the interval holds 0, from -0.48 on


def test_a_steady_difference_shows_within_a_large_spread_over_seeds() -> None:
    (row,) = rows(seeds("m", 10, 200, 3000), seeds("m", 11, 201.1, 3000.9))
    assert row.change == "changed"


def test_seeds_are_paired_and_repeats_averaged() -> None:
    before = [made("m", 1, 0), made("m", 3, 0), made("m", 5, 1), made("m", 99, 7)]
    (row,) = rows(before, [made("m", 7, 1), made("m", 4, 0), made("m", 4, 0)])
    assert (row.before, row.after, row.difference, row.seeds) == (3.5, 5.5, 2, 2)
    assert (row.error, row.interval, row.change) == (0, (2, 2), "changed")


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ([made("m", 1, 0)], [made("m", 2, 0)], (1, 1, "unknown")),
        ([made("m", 1, 0)], [made("m", 2, 1)], (1, 0, "unknown")),
        ([made("m", 1, 0)], [made("m", 1, 0)], (0, 1, "same")),
        ([made("m", 0.1 + 0.2, 0)], [made("m", 0.3, 0)], (pytest.approx(0, abs=1e-15), 1, "same")),
    ],
)
def test_of_one_seed_the_noise_is_unknown(before: list[Record], after: list[Record], wanted: Any) -> None:
    (row,) = rows(before, after)
    assert (row.difference, row.seeds, row.change) == wanted


def test_what_changed_most_beyond_its_noise_comes_first() -> None:
    before = [*seeds("same", 1, 1), *seeds("little", 100, 100), *seeds("much", 1, 1), *seeds("once", 1)]
    before += seeds("noisy", 10, 30, 20)
    after = [*seeds("same", 1, 1), *seeds("little", 101, 101), *seeds("much", 2, 2), *seeds("once", 9)]
    after += seeds("noisy", 30, 10, 25)
    assert [row.metric for row in rows(before, after)] == ["much", "little", "once", "noisy", "same"]


def test_cases_units_and_metrics_are_kept_apart() -> None:
    before = [made("m", 1, n=1), made("m", 2, n=2), made("m", 3, unit="s"), made("only", 1)]
    found = compare(Side("a", before), Side("b", [made("m", 5, n=2), made("new", 1), made("m", 9, n=3)]))
    assert [(row.case, row.difference) for row in found.rows] == [({"n": 2}, 3)]
    assert (found.only_before, found.only_after) == (["s/e/m", "s/e/only"], ["s/e/m", "s/e/new"])


@pytest.mark.parametrize(
    ("name", "value", "usual"),
    [
        ("device", "cuda", "cpu"),
        ("precision", "bfloat16", "float32"),
        ("shaping", "kernel", "none"),
        ("set", "n=1", ""),
    ],
)
def test_other_conditions_are_named(name: str, value: str, usual: str) -> None:
    found = compare(Side("a", [made("m", 1)]), Side("b", [made("m", 2, **{name: value})]))
    assert found.rows[0].conditions == {name: (usual, value)}
    assert f"{name}: {usual or 'none'} → {value}, in s/e" in as_markdown([found])


def test_conditions_are_never_pooled() -> None:
    both = [made("m", 1), made("m", 100, 1, precision="bfloat16")]
    assert [(row.before, row.after, row.seeds) for row in rows(both, [made("m", 2)])] == [(1, 2, 1)]
    assert rows(both, [made("m", 2, device="cuda")]) == []  # which of the two it stands beside is not known


def test_the_environment_names_what_differs() -> None:
    suite = {"name": "s", "sha256": "0" * 64}
    before = {"commit": "abc", "versions": {"torch": "2.11", "numpy": "2"}, "machine": {"cores": 2}, "suites": [suite]}
    after = {"commit": "def", "versions": {"torch": "2.12", "numpy": "2"}, "machine": {"cores": 2}}
    sides = (Side(name, [made("m", 1)], facts(one)) for name, one in (("a", before), ("b", after)))
    found = compare(*sides)
    assert found.environment == {"commit": ("abc", "def"), "versions.torch": ("2.11", "2.12")}


def test_the_command_takes_folders_files_and_baselines(run_of: Write, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run_of("first", seeds("m", 1, 1)), run_of("second", seeds("m", 2, 2))
    baseline = second.parent / "baseline.jsonl"
    baseline.write_bytes(b'{"gate":1,"suites":{}}\n' + (second / "records.jsonl").read_bytes())
    page = first.parent / "page.html"
    words = [str(first), str(second / "records.jsonl"), str(baseline)]
    assert main(["compare", *words, "--html", str(page)]) == 0
    assert capsys.readouterr().out.count("| changed |") == 2
    assert page.read_text().count('<tr class="changed">') == 2
    assert main(["compare", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["before"], one["rows"][0]["difference"]) for one in found] == [(str(first), 1), (str(first), 1)]


def test_a_page_needs_no_network_and_escapes_names() -> None:
    text = as_html([compare(Side("<a>", [made("m", 1, n="<b>")]), Side("b", [made("m", 2, n="<b>")]))])
    assert "http" not in text
    assert "&lt;a&gt;" in text
    assert "n=&lt;b&gt;" in text
    assert "<b>" not in text


def test_unusable_input_is_said(run_of: Write, capsys: pytest.CaptureFixture[str]) -> None:
    run, empty = run_of("run", [made("m", 1)]), run_of("empty", [])
    torn = run.parent / "torn.jsonl"
    torn.write_text("{}\n")
    for path, said in (
        (run.parent / "none", "none: "),
        (empty, "empty: has no records"),
        (torn, "torn.jsonl:1: "),
        (None, "two runs"),
    ):
        assert main(["compare", str(run), *([str(path)] if path else [])]) == 2
        assert said in capsys.readouterr().err


def test_the_same_metrics_of_other_cases_are_told_apart_from_those_of_one_run() -> None:
    found = compare(Side("a", [made("m", 1, n=1), made("old", 1)]), Side("b", [made("m", 1, n=2), made("new", 1)]))
    lines = as_markdown([found]).splitlines()
    assert "- No number in common." in lines
    assert "- Of other cases in each, and so not compared: s/e/m" in lines
    assert lines[-2:] == ["- Only in a: s/e/old", "- Only in b: s/e/new"]
