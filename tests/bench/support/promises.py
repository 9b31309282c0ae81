"""The table of faults in docs/reliability.md: written from a run of the tests that are marked as promises.

``@pytest.mark.promise(GROUP, FAULT, PROMISED)``, the outermost decorator, marks a test, parametrised or not, as a row.
The test says by ``see`` what happened, in a line without times, ports or folders. ``pytest -m promise
--write-promises`` runs all such tests and writes the table: a test that failed or was skipped stands in it as that, and
one that was not part of the run keeps what it said.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table of promises: begin -->", "<!-- table of promises: end -->"
GROUPS = ("Nodes", "Runner and workers", "Links", "Time", "Machine", "Files", "User code", "Long runs")
HEAD = "| fault | promised | seen | test |\n|---|---|---|---|\n"
MOST_SEEN = 4


class Promise(NamedTuple):
    """A marked test."""

    group: str
    fault: str
    promised: str
    file: str
    test: str


class Result(NamedTuple):
    """What one case of a marked test has shown."""

    outcome: str
    seen: list[str]


def promises(tests: Path = ROOT / "tests") -> Iterator[Promise]:
    """The marked tests below ``tests``, found in their text."""
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.promise(" in text:
            for function in ast.walk(ast.parse(text)):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    for words in map(_words, function.decorator_list):
                        if words:
                            yield Promise(*words, path.relative_to(tests.parent).as_posix(), function.name)


def _words(decorator: ast.expr) -> list[str]:
    if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise"):
        return []
    return [ast.literal_eval(argument) for argument in decorator.args]


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    promised: str
    seen: str
    test: str

    def __str__(self) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in self)} |"


def rows_of(page: str) -> list[Row]:
    """The lines of the table on ``page``."""
    text = page.partition(BEGIN)[2].partition(END)[0]
    return [Row(*line[2:-2].split(" | ")) for line in text.splitlines() if line.endswith("` |")]


def with_table(page: str, marked: list[Promise], results: dict[tuple[str, str], list[Result]]) -> str:
    """``page`` with a table a group between its two marks; ``results`` by file and test."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin
    assert end
    earlier = {row.test: row.seen for row in rows_of(page)}
    text = ""
    for group in GROUPS:
        rows = [_row(one, results.get((one.file, one.test)), earlier) for one in marked if one.group == group]
        if rows:
            text += f"\n### {group}\n\n{HEAD}" + "".join(f"{row}\n" for row in rows)
    return f"{before}{begin}\n{text}\n{end}{after}"


def _row(one: Promise, results: list[Result] | None, earlier: dict[str, str]) -> Row:
    test = f"`{one.file}` `{one.test}`"
    return Row(one.fault, one.promised, shown(results) if results else earlier.get(test, "not run"), test)


def shown(results: list[Result]) -> str:
    """What is said of these results of the cases of a test."""
    held = sum(result.outcome == "passed" for result in results)
    others = [result.outcome for result in results if result.outcome != "passed"]
    counted = f"held in {held} of {len(results)}"
    told = ", ".join(f"{others.count(outcome)} {outcome}" for outcome in sorted(set(others)))
    seen = list(dict.fromkeys(f"`{text}`" for result in results for text in result.seen))
    more = [f"and {len(seen) - MOST_SEEN} more"] if len(seen) > MOST_SEEN else []
    return ": ".join(filter(None, [counted + (f" ({told})" if told else ""), "; ".join(seen[:MOST_SEEN] + more)]))


# -- what pytest calls


_noted: list[tuple[str, object]] = []  # of the test that runs


def see(text: str) -> None:
    """Note for the table what has happened, as one line."""
    _noted.append(("seen", " ".join(text.replace("`", "'").split())))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    _noted.clear()
    try:
        yield
    finally:
        item.user_properties += _noted


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-promises", action="store_true", help="write the table of docs/reliability.md")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("write_promises") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer())


class Writer:
    """Keep the results of marked tests, and write the table when all have ended."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], list[Result]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            file, _, test = report.nodeid.partition("::")
            said = [str(text) for name, text in report.user_properties if name == "seen"]
            results = self._results.setdefault((file, test.partition("[")[0]), [])
            results.append(Result(report.outcome, said))

    def pytest_sessionfinish(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_table(page, list(promises()), self._results), encoding="utf-8")
