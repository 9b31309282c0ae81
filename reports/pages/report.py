"""Report of a run, reproducible from its files: ``report.md``, a page a suite, ``report.html`` and figures."""

from pathlib import Path
from typing import Any

import msgspec

from reports.claims.verdict import Judgement
from reports.figures.figure import Figures
from reports.pages import front
from reports.pages.as_html import as_html
from reports.pages.as_markdown import as_markdown
from reports.pages.environment import EnvironmentTree, suites_of
from reports.pages.suite_page import suite_page
from reports.record import Record, read_records
from reports.run_environment import read_environment


class ReportError(ValueError):
    """A folder has no run, or a file of it cannot be read; names the file."""


def write_report(directory: Path) -> Path:
    """Write the report of the run in ``directory`` from its files; return the path of ``report.md``.

    Beside that, ``suites/`` gets a page of each suite, ``figures/`` their figures, and ``report.html`` all in one file.
    ``directory`` holds ``records.jsonl``, ``claims.json`` and ``environment.json``, of which two may be missing. Raises
    ReportError if none exists, or one cannot be read.
    """
    records, judgements, environment = read_run(directory)
    run = front.Run(judgements, environment, suites_of(records, environment), records)
    by_suite: dict[str, list[Record]] = {}
    for record in records:
        by_suite.setdefault(record.suite, []).append(record)
    figures = Figures(directory)
    pages = [front.front_page(run, figures)]
    for suite in run.suites:
        if suite["experiments"]:  # else it only includes other suites
            own = [one for one in judgements if one.suite == suite["name"]]
            pages.append(suite_page(suite, by_suite.get(suite["name"], []), own, figures))
    (directory / "suites").mkdir(exist_ok=True)
    (directory / "report.html").write_text(as_html(pages), encoding="utf-8")
    for page in pages:
        (directory / f"{page.path}.md").write_text(as_markdown(page), encoding="utf-8")
    return directory / f"{front.PATH}.md"


def step_summary(directory: Path) -> str:
    """What the run in ``directory`` came to, as Markdown for ``$GITHUB_STEP_SUMMARY``. Raises ReportError."""
    records, judgements, environment = read_run(directory)
    return front.step_summary(front.Run(judgements, environment, suites_of(records, environment), records))


def read_run(directory: Path) -> tuple[list[Record], list[Judgement], EnvironmentTree]:
    """Read records, judgements and environment of ``directory``; a missing file is empty. Raises ReportError."""
    paths = [directory / name for name in ("records.jsonl", "claims.json", "environment.json")]
    if not any(path.exists() for path in paths):
        raise ReportError(f"{directory}: no run in this folder; give the output folder of `bench run`")
    records_path, claims_path, environment_path = paths
    try:
        records = list(read_records(records_path)) if records_path.exists() else []
    except ValueError as error:
        raise ReportError(str(error)) from None
    return records, _json(claims_path, list[Judgement], []), _environment(environment_path)


def _environment(path: Path) -> EnvironmentTree:
    try:
        return read_environment(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise ReportError(f"{path}: {error}") from None


def _json(path: Path, kind: Any, missing: Any) -> Any:
    if not path.exists():
        return missing
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ReportError(f"{path}: {error}") from None
