"""Reports from a run's files: the golden one, byte for byte, and reports from some of the files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from reports.figures.figure import slug
from reports.pages.report import ReportError, write_report
from reports.record import Record

GOLDEN = Path(__file__).parents[1] / "golden"
Make = Callable[..., Record]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the golden run without its report."""
    for name in ("records.jsonl", "claims.json", "environment.json"):
        shutil.copy(GOLDEN / name, tmp_path)
    return tmp_path


def test_the_report_is_the_golden_one_however_often_it_is_written(run: Path) -> None:
    for _ in range(2):
        path = write_report(run)
        assert path == run / "report.md"
        assert path.read_text(encoding="utf-8") == (GOLDEN / "report.md").read_text(encoding="utf-8")
    figures = sorted((run / "figures").iterdir())
    assert [figure.name for figure in figures] == ["example-latency.png", "example-training.png"]
    assert all(figure.stat().st_size > 1000 for figure in figures)
    shown = {part.split(")")[0] for part in path.read_text().split("](")[1:]}
    assert shown == {f"figures/{figure.name}" for figure in figures}


def test_records_alone_make_a_report(tmp_path: Path, record: Make) -> None:
    (tmp_path / "records.jsonl").write_bytes(msgspec.json.encode(record(0.5, metric="accuracy")))
    text = write_report(tmp_path).read_text()
    assert "| accuracy |      0.5 |" in text
    assert "Measured with 1 seed:" in text
    assert "## Claims" not in text
    assert len(list((tmp_path / "figures").iterdir())) == 1


def test_different_conditions_get_separate_tables(tmp_path: Path, record: Make) -> None:
    (tmp_path / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines([record(1), record(3, mode="live")]))
    text = write_report(tmp_path).read_text()
    assert text.count("Conditions:") == 2
    assert "| m      |        1 |" in text
    assert "| m      |        3 |" in text
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_an_environment_alone_shows_failures_and_a_figure_without_data_is_noted(run: Path) -> None:
    environment = (run / "environment.json").read_text().replace('"round_s"', '"round"')
    (run / "environment.json").write_text(environment)
    assert "> Note: no figure: no metric round was measured." in write_report(run).read_text()
    (run / "records.jsonl").unlink()
    (run / "claims.json").unlink()
    text = write_report(run).read_text()
    assert "**failed** example/kernel-links: ShapeError: tc needs root" in text


def test_an_empty_folder_has_no_run(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run in this folder"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["records.jsonl", "claims.json", "environment.json"])
def test_a_broken_file_is_named(run: Path, name: str) -> None:
    (run / name).write_text('{"schema": 1,\n')
    with pytest.raises(ReportError, match=name):
        write_report(run)


def test_any_name_becomes_a_file_name() -> None:
    assert slug("../all/a b|c") == "all-a-b-c"
    assert slug("///") == "figure"
