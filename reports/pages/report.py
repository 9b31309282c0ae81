"""Report of a run: ``report.md`` and its figures, reproducible from the files of the run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from reports.claims.headline import OTHERS, VERDICTS, headlines
from reports.claims.statistics import CONFIDENCE, MIN_SEEDS
from reports.claims.verdict import Judgement
from reports.figures.draw import draw
from reports.figures.figure import Figures, alternative
from reports.figures.panels import FigureError, FigureSpec, choose, is_pixel
from reports.figures.published import with_published
from reports.formatting import conditions_text, escape, label, number
from reports.pages.environment import EnvironmentTree, duration, facts, failures, suites_of
from reports.pages.pareto_section import pareto_section
from reports.pages.summary import UNSTABLE, SummaryRow, by_conditions, same_for_all, summarise, unstable
from reports.pages.tables import grid, markdown, tables
from reports.record import Record, read_records


class ReportError(ValueError):
    """A folder has no run, or a file of it cannot be read; names the file."""


def write_report(directory: Path) -> Path:
    """Write ``report.md`` and ``figures/`` from the files of a run; return the path of ``report.md``.

    ``directory`` holds ``records.jsonl``, ``claims.json`` and ``environment.json``, of which two may be missing. Raises
    ReportError if none exists, or one cannot be read.
    """
    records, judgements, environment = read_run(directory)
    path = directory / "report.md"
    path.write_text("\n".join(_report(directory, records, judgements, environment)) + "\n", encoding="utf-8")
    return path


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
    return records, _json(claims_path, list[Judgement], []), _json(environment_path, EnvironmentTree, {})


def _json(path: Path, kind: Any, missing: Any) -> Any:
    if not path.exists():
        return missing
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ReportError(f"{path}: {error}") from None


def _report(
    directory: Path, records: list[Record], judgements: list[Judgement], environment: EnvironmentTree
) -> Iterable[str]:
    suites = suites_of(records, environment)
    drawn = Figures(directory)
    yield f"# SplitMEC report: {escape(', '.join(suite['name'] for suite in suites) or 'nothing ran')}"
    yield ""
    yield from facts(environment, suites)
    yield from failures(suites)
    yield from _claims(judgements)
    for suite in suites:
        if not suite["experiments"]:  # it only includes other suites
            continue
        title = f"{suite['name']}: {suite['title']}" if suite.get("title") else suite["name"]
        yield from (f"## {escape(title)}", "")
        if suite.get("description"):
            yield from (escape(suite["description"]), "")
        for experiment in suite["experiments"]:
            key = (suite["name"], experiment["name"])
            chosen = [record for record in records if (record.suite, record.experiment) == key]
            yield from _experiment(drawn, suite["name"], experiment, chosen, judgements)
        chosen = [record for record in records if record.suite == suite["name"]]
        for i, wanted in enumerate(suite.get("fronts", ())):
            yield from pareto_section(drawn, f"{suite['name']}-front-{i + 1}", wanted, chosen)
    yield from ("## How to read this", "", *LEGEND)


LEGEND = (
    "- A number is a mean over seeds ± its standard deviation; without ± there was one seed, or all agreed.",
    "- *reproduced*, *not-reproduced*: what is claimed holds, or fails, beyond its noise, which is the"
    f" {CONFIDENCE:.0%} interval",
    "  of the mean over seeds. *trend*: the direction holds so, the size does not. *inconclusive*: the noise leaves it",
    "  open. *not-comparable*: about learning, and on other data or trained less than the claim needs.",
    "- *prediction*: a number or direction of the paper to which nothing was fitted; *calibrated*: fitted to it, or",
    "  to one that implies it; *identity*: true by construction, or a self-test; *ours*: what the suite adds.",
    f"- Unstable: seeds or repeats spread over more than {UNSTABLE:.0%} of the mean."
    f" Fewer than {MIN_SEEDS} seeds are pointed out.",
    "- Every number stands in `records.jsonl` with its conditions; different conditions are never merged.",
)


def _claims(judgements: Sequence[Judgement]) -> Iterable[str]:
    if not judgements:
        return
    yield from (
        "## Claims",
        "",
        "Predictions of the paper, to which nothing was fitted, and apart from them the rest:",
        "",
    )
    found = headlines(judgements)
    verdicts = [name for name in VERDICTS if any(one.predictions[name] for one in found)]
    rows = [
        [
            escape(one.suite),
            str(one.predictions.total()),
            *(str(one.predictions[name] or "–") for name in verdicts),
            *(f"{held} of {count}" if count else "–" for held, count in one.others.values()),
        ]
        for one in found
    ]
    yield grid(["Suite", "Predictions", *verdicts, *(name.capitalize() for name in OTHERS.values())], rows)
    yield ""
    if by_reference := sum(one.by_reference for one in found):
        yield f"Of what this run cannot judge, {by_reference} count as the kept reference runs judged them."
        yield ""
    for suite in dict.fromkeys(judgement.suite for judgement in judgements):
        in_suite = [judgement for judgement in judgements if judgement.suite == suite]
        rows = [_claim_row(one) for one in in_suite]
        yield from (f"### Claims of {escape(suite)}", "")
        yield grid(["Here", "Reference", "Claim", "Class", "Source", "Paper", "Measured"], rows)
        yield ""
        for one in in_suite:
            yield f"- **{escape(one.claim)}** ({escape(one.source)}), *{one.verdict}*: {escape(one.says)}  "
            yield f"  {escape(one.why)}{'  ' if one.reference else ''}"
            if known := one.reference:
                yield f"  Reference run ({escape(known.run)}), *{known.verdict}*: {escape(known.why)}"
        yield ""


def _claim_row(one: Judgement) -> list[str]:
    reference = one.reference.verdict if one.reference else "–"
    cells = [escape(one.claim), one.claim_class, escape(one.source), _numbers(one.paper), _numbers(one.measured)]
    return [one.verdict, reference, *cells]


def _numbers(value: float | Sequence[float] | None) -> str:
    if isinstance(value, Sequence):
        return ", ".join(map(number, value))
    return "–" if value is None else number(value)


def _experiment(
    drawn: Figures, suite: str, experiment: EnvironmentTree, records: list[Record], judgements: Sequence[Judgement]
) -> Iterable[str]:
    name = experiment["name"]
    yield from (f"### {escape(experiment.get('title') or name)}", "")
    status = f", {experiment['status']}" if experiment.get("status") else ""
    seconds = f", {duration(experiment['seconds'])}" if experiment.get("seconds") is not None else ""
    yield f"`{name}`{status}{seconds}."
    if experiment.get("description"):
        yield from ("", escape(experiment["description"]))
    if experiment.get("reason"):
        yield from ("", f"> {experiment.get('status', 'reason')}: {escape(experiment['reason'])}")
    yield ""
    groups = by_conditions(records)
    for i, (conditions, group) in enumerate(groups.items()):
        seeds = ", ".join(str(seed) for seed in sorted({record.seed for record in group}))
        yield from (f"Conditions: {conditions_text(conditions)}, seeds {seeds}.", "")
        if fixed := same_for_all([record.case for record in group]):
            yield from (f"In every case: {escape(label(fixed.items()))}.", "")
        for table in tables(group):
            yield from (markdown(table), "")
        for warning in unstable(row for row in summarise(group) if not is_pixel(row)):
            yield from (f"> Note: {warning}", "")
        stem = f"{suite}-{name}" + (f"-{i + 1}" if len(groups) > 1 else "")
        own = [one for one in judgements if one.suite == suite]
        rows = with_published(summarise(group), name, group[0].dataset, own)
        yield from _figures(drawn, stem, experiment, rows)


def _figures(drawn: Figures, stem: str, experiment: EnvironmentTree, rows: list[SummaryRow]) -> Iterable[str]:
    title = str(experiment.get("title") or experiment["name"])
    specs: list[Any] = experiment.get("figures") or [None]
    for i, wanted in enumerate(specs):
        try:
            spec = msgspec.convert(wanted, FigureSpec) if wanted else None
            panels = choose(rows, spec)
        except (FigureError, msgspec.ValidationError) as error:
            yield from (f"> Note: no figure: {escape(str(error))}.", "")
            continue
        caption = (spec and spec.title) or title
        name = f"{stem}-{i + 1}" if len(specs) > 1 else stem
        figure = drawn.add(name, caption, alternative(panels), draw(panels))
        yield from (f"![{escape(caption)}]({figure.file})", "")
