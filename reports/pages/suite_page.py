"""The page of one suite: each claim once, then every experiment with its tables and figures, then its files."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from reports.claims.verdict import Judgement
from reports.figures.draw import draw
from reports.figures.figure import Figures, alternative
from reports.figures.panels import FigureError, FigureSpec, choose, is_pixel
from reports.figures.published import with_published
from reports.formatting import conditions_text, label
from reports.pages.document import (
    Badge,
    Block,
    Code,
    Heading,
    Link,
    Page,
    Paragraph,
    Picture,
    Table,
    Words,
    anchor,
    suite_path,
)
from reports.pages.environment import EnvironmentTree, duration, suite_file
from reports.pages.numbers import claim_anchor, numbers
from reports.pages.pareto_section import fronts, pareto_section
from reports.pages.summary import UNITLESS, SummaryRow, by_conditions, same_for_all, summarise, unstable
from reports.pages.tables import block, tables
from reports.record import Record

RECORDS = "records.jsonl"
HEADS = ("Claim", "Verdict", "Class", "Source", "Printed", "Here", "Unit", "Wanted", "Why", "Reference", "Measured in")


def suite_page(
    suite: EnvironmentTree, records: Sequence[Record], judgements: Sequence[Judgement], figures: Figures
) -> Page:
    """``records`` and ``judgements`` are those of ``suite``."""
    name = suite["name"]
    title = f"{name}: {suite['title']}" if suite.get("title") else name
    return Page(suite_path(name), title, list(_blocks(suite, title, records, judgements, figures)))


def _blocks(
    suite: EnvironmentTree, title: str, records: Sequence[Record], judgements: Sequence[Judgement], figures: Figures
) -> Iterator[Block]:
    name = suite["name"]
    yield Heading(1, title, anchor("suite", name))
    if suite.get("description"):
        yield Paragraph(" ".join(suite["description"].split()))
    if judgements:
        yield Heading(2, "Claims", anchor("claims", name))
        yield Table(f"Claims of {name}", HEADS, [_claim(one) for one in judgements]).without_empty_columns
    by_experiment: dict[str, list[Record]] = {}
    for record in records:
        by_experiment.setdefault(record.experiment, []).append(record)
    for experiment in suite["experiments"]:
        yield from _experiment(name, experiment, by_experiment.get(experiment["name"], []), judgements, figures)
    for i, (wanted, measured) in enumerate(fronts(suite, records)):
        yield from pareto_section(figures, f"{name}-front-{i + 1}", wanted, measured)
    if words := suite_file(suite):
        yield Heading(2, "Files", anchor("files", name))
        yield Paragraph(words)


def _claim(one: Judgement) -> list[Words]:
    known = one.reference
    measured_in = list(dict.fromkeys(selector.experiment for selector in one.of))
    links: list[Any] = [Link(name, suite_path(one.suite), _place(one.suite, name)) for name in measured_in]
    return [
        [Link(one.claim, suite_path(one.suite), claim_anchor(one), target=True), f": {one.says}"],
        Badge(one.verdict),
        one.claim_class,
        one.source,
        numbers(one.paper),
        numbers(one.measured),
        "" if one.unit in UNITLESS else one.unit,
        one.wanted,
        one.why,
        [Badge(known.verdict), f", {known.run}: {known.why}"] if known else "–",
        [part for link in links for part in (", ", link)][1:] or "–",
    ]


def _place(suite: str, experiment: str) -> str:
    return anchor("experiment", suite, experiment)


def _experiment(
    suite: str, experiment: EnvironmentTree, records: list[Record], judgements: Sequence[Judgement], figures: Figures
) -> Iterator[Block]:
    name = experiment["name"]
    yield Heading(2, str(experiment.get("title") or name), _place(suite, name))
    yield Paragraph(list(_status(experiment)))
    if experiment.get("description"):
        yield Paragraph(" ".join(experiment["description"].split()))
    if experiment.get("reason"):
        yield Paragraph([Badge(experiment.get("status", "reason")), f": {experiment['reason']}"], note=True)
    groups = by_conditions(records)
    for i, (conditions, group) in enumerate(groups.items()):
        seeds = ", ".join(str(seed) for seed in sorted({record.seed for record in group}))
        fixed = same_for_all([record.case for record in group])
        every = f" In every case: {label(fixed.items())}." if fixed else ""
        yield Paragraph(f"Conditions: {conditions_text(conditions)}, seeds {seeds}.{every}")
        rows = with_published(summarise(group), name, group[0].dataset, judgements)
        number = f" under conditions {i + 1}" if len(groups) > 1 else ""
        yield from (block(table, f"{suite}/{name}{number}, table {j + 1}") for j, table in enumerate(tables(rows)))
        yield from (Paragraph(warning, note=True) for warning in unstable(row for row in rows if not is_pixel(row)))
        stem = f"{suite}-{name}" + (f"-{i + 1}" if len(groups) > 1 else "")
        yield from _figures(figures, stem, experiment, rows)


def _status(experiment: EnvironmentTree) -> Iterator[Any]:
    yield Code(experiment["name"])
    if experiment.get("status"):
        yield ", "
        yield Badge(experiment["status"])
    yield f", {duration(experiment['seconds'])}." if experiment.get("seconds") is not None else "."


def _figures(figures: Figures, stem: str, experiment: EnvironmentTree, rows: list[SummaryRow]) -> Iterator[Block]:
    specs: list[Any] = experiment.get("figures") or [None]
    for i, wanted in enumerate(specs):
        try:
            spec = msgspec.convert(wanted, FigureSpec) if wanted else None
            panels = choose(rows, spec)
        except (FigureError, msgspec.ValidationError) as error:
            yield Paragraph(f"no figure: {error}.", note=True)
            continue
        title = (spec and spec.title) or str(experiment.get("title") or experiment["name"])
        figure = figures.add(f"{stem}-{i + 1}" if len(specs) > 1 else stem, title, alternative(panels), draw(panels))
        yield Picture(figure, ["From ", Link(RECORDS, RECORDS), ", experiment ", Code(experiment["name"]), "."])
