"""docs/reliability.md: its table names every promise with its test, and is made as it says."""

from pathlib import Path

import pytest
from promises import BEGIN, END, GROUPS, PAGE, Promise, Result, promises, rows_of, shown, with_table

MARKED = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.promise("Links", "a link is cut", "it is named")
def test_cut(n): ...

def test_of_no_promise(): ...
"""


def test_the_page_names_every_promise_and_no_other() -> None:
    marked = list(promises())
    assert marked
    assert {one.group for one in marked} <= set(GROUPS)
    on_page = sorted((row.fault, row.promised, row.test) for row in rows_of(PAGE.read_text(encoding="utf-8")))
    assert on_page == sorted((one.fault, one.promised, f"`{one.file}` `{one.test}`") for one in marked)


def test_what_stands_in_the_table_was_seen_to_hold() -> None:
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    assert rows
    assert not [row for row in rows if not row.seen.startswith("held in ") or "failed" in row.seen.partition(":")[0]]


def test_promises_are_found_in_the_text_of_tests(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(MARKED)
    found = list(promises(tmp_path / "tests"))
    assert found == [Promise("Links", "a link is cut", "it is named", "tests/test_it.py", "test_cut")]


@pytest.mark.parametrize(
    ("results", "cell"),
    [
        ([Result("passed", [])], "held in 1 of 1"),
        ([Result("passed", ["b lost a"]), Result("failed", ["x"])], "held in 1 of 2 (1 failed): `b lost a`; `x`"),
        ([Result("passed", ["same"])] * 3 + [Result("skipped", [])], "held in 3 of 4 (1 skipped): `same`"),
        ([Result("passed", [str(n)]) for n in range(6)], "held in 6 of 6: `0`; `1`; `2`; `3`; and 2 more"),
    ],
)
def test_a_row_says_how_often_it_held_and_what_was_seen(results: list[Result], cell: str) -> None:
    assert shown(results) == cell


def test_a_run_replaces_its_rows_alone_and_nothing_else_of_the_page() -> None:
    marked = [Promise("Links", f"link {name} is cut", "it is named", "tests/test_it.py", name) for name in "ab"]
    first = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", marked, {})
    assert first.startswith("before\n")
    assert first.endswith("\nafter\n")
    assert [row.seen for row in rows_of(first)] == ["not run"] * 2
    second = with_table(first, marked, {("tests/test_it.py", "a"): [Result("passed", ["a | b"])]})
    third = with_table(second, marked[:1], {})
    assert [row.seen for row in rows_of(second)] == ["held in 1 of 1: `a / b`", "not run"]
    assert [str(row) for row in rows_of(third)] == [str(row) for row in rows_of(second)][:1]
    assert "### Links\n" in third
