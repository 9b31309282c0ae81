"""Suites that would take minutes to check are refused by a word, before each value is looked at."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.execution import loader

Told = Callable[..., tuple[int, str]]
GRIDS = {
    f"{{n: {list(range(41))}}}": "experiments[0].grid.n: 41 cases",
    "{n: [1, 2, 3, 4, 5, 6, 7], rate: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}": "experiments[0].grid.n: 42 cases",
}


@pytest.fixture
def _few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MOST_CASES", 40)
    monkeypatch.setattr(loader, "_given", None)  # no value is looked at


@pytest.mark.usefixtures("_few_cases")
@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_of_too_many_cases_is_refused_at_once(folder: Path, told: Told, grid: str) -> None:
    suite = f"name: toy\nexperiments:\n  - {{name: a, run: 'toy:measure', mode: virtual, grid: {grid}}}\n"
    (folder / "toy.yaml").write_text(suite)
    assert told("validate", "toy.yaml") == (
        2,
        f"toy.yaml:3: {GRIDS[grid]} at one scale, at most 40; divide the experiment\n",
    )


@pytest.mark.usefixtures("_few_cases")
def test_so_are_too_many_seeds(folder: Path, told: Told) -> None:
    (folder / "toy.yaml").write_text(
        "name: toy\nexperiments:\n  - {name: a, run: 'toy:measure', mode: virtual, seeds: 50}"
    )
    code, error = told("validate", "toy.yaml")
    assert code == 2
    assert error.startswith("toy.yaml:3: experiments[0].seeds: 50 cases")


def test_a_value_that_stands_twice_on_an_axis_is_refused(folder: Path, told: Told) -> None:
    suite = "name: toy\nexperiments:\n  - {name: a, run: 'toy:measure', mode: virtual, grid: {n: [1, 2, 1]}}\n"
    (folder / "toy.yaml").write_text(suite)
    assert told("validate", "toy.yaml") == (
        2,
        "toy.yaml:3: experiments[0].grid.n: needs one value or more, each once\n",
    )


def test_a_file_that_is_too_large_is_refused_unread(folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.suite.document.MOST_BYTES", 10)
    code, error = told("validate", "toy.yaml")
    assert code == 2
    assert error.startswith("toy.yaml:1: document: is larger than 10 bytes")
