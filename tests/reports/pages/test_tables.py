"""Frames, means with their spread, warnings and Markdown tables."""

from collections.abc import Callable, Iterable

import pandas as pd
import pytest

from reports.formatting import escape, label, number
from reports.pages.as_markdown import as_markdown
from reports.pages.document import Page
from reports.pages.summary import header, summarise, unstable
from reports.pages.tables import block, frame, grid, measured
from reports.pages.tables import tables as tables_of
from reports.record import Record

Make = Callable[..., Record]


def tables(records: Iterable[Record]) -> list[pd.DataFrame]:
    return tables_of(summarise(records))


def markdown(table: pd.DataFrame) -> str:
    return as_markdown(Page("report", "", [block(table, "a table")]))


def test_a_frame_has_a_column_for_every_case_key(record: Make) -> None:
    found = frame([record(1, case={"rate": 10, "codec": "f16"}), record(2.5, case={"rate": 20}, seed=1)])
    assert (list(found["value"]), list(found["case.rate"])) == ([1, 2.5], [10, 20])
    assert found["case.rate"].dtype.kind == "i"
    assert list(found["case.codec"].isna()) == [False, True]
    assert {"suite", "experiment", "metric", "unit", "seed", "mode", "scale", "dataset"} < set(found.columns)
    assert "case.rate" not in frame([])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.817, 0.828, 0.839], "0.828 ± 0.011"),
        ([4_194_304], "4,194,304"),
        ([100_000, 101_000, 102_000], "101,000 ± 1,000"),
        ([0.5, 0.5], "0.5"),
        ([0.00001234], "1.234e-05"),
        ([1e-9, 3e-9], "2e-09 ± 1.4e-09"),
        ([9.99, 10.01], "10.000 ± 0.014"),
    ],
)
def test_a_deviation_decides_the_decimals(record: Make, values: list[float], text: str) -> None:
    (row,) = summarise(record(value, seed=seed) for seed, value in enumerate(values))
    assert measured(row) == text


def test_repeats_count_once_and_case_keys_in_another_order_are_the_same_case(record: Make) -> None:
    (row,) = summarise([record(1), record(3), record(4, seed=1)])
    assert (row.mean, row.seeds) == (3, 2)
    assert row.deviation == pytest.approx(2**0.5)
    assert row.repeats_deviation == pytest.approx(2**0.5)
    assert len(summarise([record(1, case={"a": 1, "b": 2}), record(2, case={"b": 2, "a": 1}, seed=1)])) == 1


def test_rows_are_cases_and_columns_metrics_that_have_the_same_case_keys(record: Make) -> None:
    records = [
        record(value, metric=metric, unit=unit, case={"method": method, "epochs": 2})
        for method in ("split", "unsplit")
        for metric, unit, value in (("accuracy", "", 0.5), ("time", "s", 2), ("up_bytes", "bytes", 7))
    ]
    (table,) = tables(records)
    assert list(table.columns) == ["method", "accuracy", "time [s]", "up_bytes"]  # epochs never changes
    assert table.to_numpy().tolist() == [["split", "0.5", "2", "7"], ["unsplit", "0.5", "2", "7"]]
    records = [record(1, metric="total", case={"method": method}) for method in "ab"]
    records += [record(1, metric="each", case={"method": method, "client": i}) for method in "ab" for i in (0, 1)]
    assert [list(table.columns) for table in tables(records)] == [["method", "total"], ["method", "client", "each"]]
    assert [len(table) for table in tables(records)] == [2, 4]
    (table,) = tables([record(1, metric="a"), record(2, metric="b", unit="s")])
    assert table.to_numpy().tolist() == [["a", "1"], ["b [s]", "2"]]
    records = [record(1, metric=f"m{i}", case={"k": k}) for i in range(8) for k in "ab"]
    assert [len(table.columns) for table in tables(records)] == [7, 3]


def test_markdown_is_aligned_escaped_and_folded_or_cut_where_it_is_long(record: Make) -> None:
    lines = grid(["name", "n"], [["a", "1"], ["bcdef", "1,000"]]).splitlines()
    assert lines == ["| name  |     n |", "| ----- | ----: |", "| a     |     1 |", "| bcdef | 1,000 |"]
    assert escape("a|b\n<c> `d` *e* snake_case") == r"a\|b \<c\> \`d\` \*e\* snake_case"
    (table,) = tables([record(1, case={"k": k}) for k in ("x|y", "z")])
    assert r"x\|y" in markdown(table)
    (table,) = tables(record(1, case={"epoch": epoch}) for epoch in range(250))
    text = markdown(table)
    assert text.startswith("<details><summary>200 rows: epoch, m</summary>\n\n|")
    assert "50 more rows are in `records.jsonl`" in text
    assert text.count("\n|") == 202
    assert "details" not in markdown(table.head(30))


def test_a_header_names_its_unit_once_and_numbers_have_four_digits_and_separators_but_not_in_a_case() -> None:
    found = [header("latency_s", "s"), header("latency", "s"), header("accuracy", "1"), header("share", "fraction")]
    assert found == ["latency_s", "latency [s]", "accuracy", "share"]
    found = [header("up_bytes", "B"), header("samples_per_s", "samples/s"), header("sbytes", "B")]
    assert found == ["up_bytes", "samples_per_s", "sbytes [B]"]
    shown = [number(value) for value in (0.8284271, 12.0, 1234567.0, 1234567.8, 1e-7, 2e10, 3e15, -0.5, -1346.2)]
    assert shown == ["0.8284", "12", "1,234,567", "1,234,568", "1e-07", "20,000,000,000", "3e+15", "-0.5", "-1,346"]
    assert label([("rate", 12_000.0), ("size", 12_000), ("gated", True)]) == "rate=12000, size=12000, gated=yes"


def test_a_large_spread_and_few_seeds_cause_warnings_of_the_worst_case(record: Make) -> None:
    def warnings(*values: float) -> list[str]:
        return unstable(summarise(record(value, seed=seed) for seed, value in enumerate(values)))

    assert warnings(1, 1, 1.01) == []
    assert warnings(1, 2, 3) == ["m is unstable: its standard deviation is 50% of the mean."]
    assert warnings(1, 1)[0].startswith("Measured with 2 seeds")
    assert "mean of 0" in warnings(-1, 0, 1)[0]
    assert warnings(0, 0, 0) == []
    spreads = {"a": 0.3, "b": 0.5, "c": 0.01}
    records = [record(1 + k * s, seed=s + 1, case={"k": n}) for n, k in spreads.items() for s in (-1, 0, 1)]
    worst = "m is unstable in 2 of 3 cases, most with k=b: its standard deviation is 50% of the mean."
    assert unstable(summarise(records)) == [worst]


def test_some_quantiles_of_a_distribution_become_columns(record: Make) -> None:
    drawn = [("t_quantile", q, 10 * q) for q in (0.01, 0.5, 0.95)] + [("t_quantile_low", 0.5, 4)]
    records = [record(value, metric=m, unit="ms", case={"way": "one", "quantile": q}) for m, q, value in drawn]
    others = [record(7, metric="t", unit="ms", case={"way": way}) for way in ("one", "two")]
    (table,) = tables([*others, *records])
    assert list(table.columns) == ["way", "t [ms]", "t_p50 [ms]", "t_p95 [ms]", "t_p50_low [ms]"]
    assert table.to_numpy().tolist() == [["one", "7", "5", "9.5", "4"], ["two", "7", "–", "–", "–"]]
