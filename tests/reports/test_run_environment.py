"""An ``environment.json`` of any content: a report of it, or one error that names the file."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.pages.environment import facts
from reports.pages.report import ReportError, write_report
from reports.run_environment import read_environment

GOLDEN = Path(__file__).with_name("golden")
STRANGE: list[Any] = [None, True, -1, 1e300, "", "\x1b[31m", "2026-13-99", [], [None], [[]], {}, {"name": 3}]


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in ``tree``."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


@pytest.mark.promise(
    "Files", "`environment.json` has values of another form", "a report, or one line that names the file"
)
def test_no_value_in_any_place_gives_anything_but_a_report_or_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.pages.suite_page._figures", lambda *_: ())
    whole = json.loads((GOLDEN / "environment.json").read_text())
    refused = 0
    for *way, last in places(whole):
        for strange in STRANGE:
            tree = copy.deepcopy(whole)
            inner = tree
            for key in way:
                inner = inner[key]
            inner[last] = strange
            (tmp_path / "environment.json").write_text(json.dumps(tree))
            try:
                write_report(tmp_path)
            except ReportError as error:
                assert str(error).startswith(f"{tmp_path / 'environment.json'}: ")  # noqa: PT017 (one of two ends)
                refused += 1
    assert refused > 100


def test_restarts_of_a_case_stand_among_the_conditions() -> None:
    tree = read_environment(json.dumps({"restarts": {"a/b seed 0": ["ue died", "mec died"]}}).encode())
    assert list(facts(tree)) == ["Restarts of a/b seed 0: ue died; mec died"]
    with pytest.raises(ValueError, match="restarts"):
        read_environment(b'{"restarts": {"a/b seed 0": 2}}')
