"""Reports from a run's files: the golden one, byte for byte, and reports from some of the files."""

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from reports.claims.verdict import Judgement
from reports.figures.figure import slug
from reports.pages.as_markdown import as_markdown
from reports.pages.document import Badge, Table
from reports.pages.front import Run, front_page, terminal
from reports.pages.numbers import in_milliseconds, known_for
from reports.pages.report import ReportError, step_summary, write_report
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
        assert write_report(run) == run / "report.md"
        for name in ("report.md", "suites/example.md"):
            assert (run / name).read_text(encoding="utf-8") == (GOLDEN / name).read_text(encoding="utf-8")
    figures = sorted((run / "figures").iterdir())
    names = ["example-latency.png", "example-training.png", "numbers-Example.png"]
    assert [figure.name for figure in figures] == names
    assert all(figure.stat().st_size > 1000 for figure in figures)


def test_records_alone_make_a_report(tmp_path: Path, record: Make) -> None:
    (tmp_path / "records.jsonl").write_bytes(msgspec.json.encode(record(0.5, metric="accuracy")))
    assert "What held" not in write_report(tmp_path).read_text()
    text = (tmp_path / "suites" / "s.md").read_text()
    assert "| accuracy |      0.5 |" in text
    assert "Measured with 1 seed:" in text
    assert "## Claims" not in text
    assert len(list((tmp_path / "figures").iterdir())) == 1


def test_different_conditions_get_separate_tables(tmp_path: Path, record: Make) -> None:
    (tmp_path / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines([record(1), record(3, mode="live")]))
    write_report(tmp_path)
    text = (tmp_path / "suites" / "s.md").read_text()
    assert text.count("Conditions:") == 2
    assert "| m      |        1 |" in text
    assert "| m      |        3 |" in text
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_an_environment_alone_shows_failures_and_a_figure_without_data_is_noted(run: Path) -> None:
    environment = (run / "environment.json").read_text().replace('"round_s"', '"round"')
    (run / "environment.json").write_text(environment)
    write_report(run)
    assert "> Note: no figure: no metric round was measured." in (run / "suites" / "example.md").read_text()
    (run / "records.jsonl").unlink()
    (run / "claims.json").unlink()
    assert "- failed example/kernel-links: ShapeError: tc needs root" in write_report(run).read_text()


def test_the_front_page_says_what_the_command_line_changed() -> None:
    environment = {"scale": "smoke", "set": ["a.n=1", "b.lr=0.1"], "seeds": 3, "shard": None}
    page = as_markdown(front_page(Run([], environment, [])))
    assert "scale smoke; --set a.n=1, b.lr=0.1; --seeds 3" in page
    merged = [{"run": "r1", "shard": "1/2", "host": "one"}, {"run": "r2", "shard": None, "host": "two"}]
    page = as_markdown(front_page(Run([], {"merged": merged}, [])))
    assert "- Merged: r1, shard 1/2, on one\n- Merged: r2, on two" in page


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


def test_every_link_of_a_page_leads_to_something(run: Path) -> None:
    write_report(run)
    (run / "records.jsonl").touch()
    for name in ("report.md", "suites/example.md"):
        text = (run / name).read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            path = (run / name).parent / file if file else run / name
            assert path.exists(), target
            assert not anchor or f'id="{anchor}"' in path.read_text(), target


class Outline(HTMLParser):
    """Ids, inner links, headings and tables of a page; fails on tags that do not match."""

    EMPTY = ("meta", "input", "image", "path", "br")

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.levels: list[int] = []
        self.heads = self.captions = self.tables = 0
        self.outside: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"][1:]] if (given.get("href") or "").startswith("#") else []
        self.outside += [one for one in (given.get("src"), given.get("href")) if one and "://" in one]
        self.levels += [int(tag[1])] if tag in ("h1", "h2", "h3") else []
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.heads += tag == "th" and given["scope"] == "col"
        assert tag != "svg" or (given["role"], bool(given["aria-label"])) == ("img", True)
        if tag not in self.EMPTY or (tag == "path" and self.get_starttag_text()[-2:] != "/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def close(self) -> None:
        super().close()
        assert self._open == []


def test_the_html_page_is_whole_linked_and_needs_no_network(run: Path) -> None:
    write_report(run)
    text = (run / "report.html").read_text()
    page = Outline()
    page.feed(text)
    page.close()
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= {*page.ids}
    assert page.outside == []
    assert (page.levels[0], page.levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in pairwise(page.levels))
    assert page.tables == page.captions > 3
    assert "prefers-color-scheme:dark" in text
    assert 'id="claim-example-accuracy"' in text


def many(count: int, suites: int) -> list[Judgement]:
    says = "A statement of a claim that is as long as those of papers tend to be, with its numbers and conditions. " * 2
    return [
        Judgement(
            suite=f"suite_{number % suites}",
            claim=f"claim-{number}",
            source="Table II",
            says=f"{number}: {says}",
            paper=1.0,
            measured=1.0 + number / count,
            verdict="reproduced",
            why="1 over 3 seeds.",
            headline=number % 3 == 0,
            form="value",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "suites"), [(2_000, 4), (5_000, 400)])
def test_the_front_page_of_many_claims_and_suites_stays_short(tmp_path: Path, count: int, suites: int) -> None:
    judgements = many(count, suites)
    names = [f"suite_{number}" for number in range(suites)]
    failed = {"name": "e", "status": "failed", "reason": "no memory left " * 400}
    listed = [{"name": name, "title": "A title " * 30, "experiments": [failed]} for name in names]
    environment = {"suites": listed, "notes": ["a note " * 50] * 20, "arguments": ["run", *names * 20]}
    page = as_markdown(front_page(Run(judgements, environment, listed)))
    assert len(page.encode()) <= 60_000
    assert page.index("What held") < 10_000


def test_the_step_summary_is_the_front_page_without_figures(run: Path) -> None:
    summary = step_summary(run)
    assert "![" not in summary
    assert "](" not in summary
    assert re.search(r"^\| Example +\| +4 \|", summary, re.MULTILINE)


def test_the_front_page_shows_the_numbers_that_are_marked_and_papers_first() -> None:
    judgements = many(9, 3)
    assert [one.claim for one in known_for(judgements)] == ["claim-0", "claim-3", "claim-6"]
    assert [one.claim for one in known_for(judgements, 2)] == ["claim-0", "claim-3"]
    plain = [msgspec.structs.replace(one, headline=False) for one in judgements]
    assert len(known_for(plain)) == 9
    lines = list(terminal(judgements, {"suite_1": "Paper", "suite_2": "Paper"}, 200))
    assert [line.partition(":")[0] for line in lines[:2]] == ["Paper", "suite_0"]
    assert sum("claim" in line for line in lines) == 3


def test_the_summary_fits_the_terminal_and_names_units() -> None:
    judged = [
        msgspec.structs.replace(one, unit="s", paper=0.25, measured=[3.0, 2.0, 1.0] if one.headline else 0.5)
        for one in many(9, 3)
    ]
    lines = list(terminal(judged, {}, 80))
    assert max(map(len, lines)) <= 80
    assert any(re.search(r" 0\.25  3 → … → 1 s  reproduced$", line) for line in lines)


def test_short_times_are_in_milliseconds_on_the_front_page() -> None:
    (one,) = many(1, 1)
    short = msgspec.structs.replace(
        one, unit="s", paper=0.027, measured=[0.002, 0.5], wanted="at least -0.001, at most 0.1"
    )
    shown = in_milliseconds(short)
    assert (shown.unit, shown.paper, shown.measured) == ("ms", 27.0, [2.0, 500.0])
    assert shown.wanted == "at least -1, at most 100"
    for long in ({"wanted": "at most 1,000"}, {"paper": 1.5}, {"measured": -2.0}, {"unit": "J"}):
        kept = msgspec.structs.replace(short, **long)
        assert in_milliseconds(kept) is kept


def test_the_front_page_of_a_run_without_a_paper_shows_what_it_measured(tmp_path: Path, record: Make) -> None:
    records = []
    for stage, accuracy, size in (("identity", 0.9, 400.0), ("mine:Half", 0.8, 100.0)):
        records.append(record(accuracy, metric="test_accuracy", unit="fraction", case={"stage": stage}))
        case = {"stage": stage, "kind": "activation"}
        records.append(record(size, metric="payload_bytes", unit="B", case=case))
    (tmp_path / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(records))
    text = write_report(tmp_path).read_text()
    assert "| [e](suites/s.md#experiment-s-e) | [s](suites/s.md#suite-s) |" in text
    assert "(figures/front-s-1.png)" in text
    assert "| identity  |           0.9 |               400 |" in text
    assert "| mine:Half |    0.8 (-0.1) |       100 (-75 %) |" in text
    assert "Predictions" not in text
    assert "paper" not in text


def test_columns_with_nothing_in_them_are_left_out() -> None:
    table = Table("t", ["a", "b", "c", "d"], [["1", "–", "", Badge("x")], ["2", "–", "–", "–"]])
    left = table.without_empty_columns
    assert (left.heads, left.rows) == (["a", "d"], [["1", Badge("x")], ["2", "–"]])
