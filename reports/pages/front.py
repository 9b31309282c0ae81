"""The front page of a report: what held, of each paper the numbers that it is known for, and where the rest stands."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from reports.claims.headline import OTHERS, Headline, grouped, headlines
from reports.claims.statistics import CONFIDENCE, MIN_SEEDS
from reports.claims.verdict import Judgement, Verdict
from reports.figures.figure import Figures
from reports.formatting import conditions_text
from reports.pages import numbers
from reports.pages.as_markdown import as_markdown
from reports.pages.document import (
    NOTHING,
    Badge,
    Block,
    Bullets,
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
from reports.pages.environment import EnvironmentTree, asked, duration, facts, failures, states, time
from reports.pages.pareto_section import ACCURACY, ALL_BYTES, all_bytes, fronts, pareto_section
from reports.pages.summary import UNSTABLE, by_conditions, summarise
from reports.pages.tables import against_first
from reports.record import Record

PATH = "report"
LIMIT = 60_000  # bytes of the front page; longer ones hide what they are for
SUITES = 60  # that are listed, of all papers too
CONDITIONS = 20  # that are told; environment.json has all
FAILURES = 10  # that are told in full
REASON = 300  # characters of a failure's reason, or of a condition
TITLE = 100  # characters
CONDITIONS_SHOWN = 3  # sets of conditions of an experiment whose cases are shown
FIRST_METRICS = (ACCURACY, ALL_BYTES)  # of a table of changes, where they were measured
CHANGES: tuple[str | Code, ...] = (
    "In brackets: the change from the first case. ",
    Code("bench compare"),
    " tells changes between runs from noise. All metrics are on the page of the suite.",
)
COLUMNS: dict[str, tuple[Verdict, ...]] = {
    "Reproduced": ("reproduced",),
    "Trend": ("trend",),
    "Inconclusive": ("inconclusive",),
    "Not reproduced": ("not-reproduced",),
    "Not comparable": ("not-comparable",),
    "Impossible": ("inconsistent-in-paper", "impossible-together"),
    "Not run": ("not-run",),
}
LEGEND: tuple[str, ...] = (
    "A number is a mean over seeds ± its standard deviation; without ± there was one seed, or all agreed.",
    f"Unstable: seeds or repeats spread over more than {UNSTABLE:.0%} of the mean. Fewer than {MIN_SEEDS} seeds are"
    " pointed out. Error bars need as many.",
    "Every number stands in records.jsonl with its conditions; different conditions are never merged.",
)
CLAIMS_LEGEND = (
    f"reproduced, not-reproduced: what is claimed holds, or fails, beyond its noise, which is the {CONFIDENCE:.0%}"
    " interval of the mean over seeds. trend: the direction holds so, the size does not. inconclusive: the noise leaves"
    " it open. not-comparable: about learning, and on other data or trained less than the claim needs.",
)
PAPERS_LEGEND = (
    "Impossible: the paper contradicts itself there, or says two things that cannot both hold; arithmetic shows it.",
    "prediction: a number or direction of the paper to which nothing was fitted; calibrated: fitted to it, or to one"
    " that implies it; identity: true by construction, or a self-test; ours: what the suite adds.",
    "A diamond in a figure is what the paper prints, on the same data.",
)


class Run(NamedTuple):
    """What a report is about."""

    judgements: list[Judgement]
    environment: EnvironmentTree
    suites: list[EnvironmentTree]
    records: Sequence[Record] = ()

    @property
    def listed(self) -> list[EnvironmentTree]:
        """The suites that have experiments; the others only include them."""
        return [suite for suite in self.suites if suite["experiments"]]

    @property
    def papers(self) -> dict[str, str]:
        return numbers.papers_of(self.suites)

    @property
    def title(self) -> str:
        asked_for = str(self.environment.get("run", "")).rpartition("-")[0]
        names = ", ".join(suite["name"] for suite in self.listed)
        return f"SplitMEC report: {numbers.shortened(asked_for or names or 'nothing ran', TITLE)}"


def front_page(run: Run, figures: Figures | None = None) -> Page:
    """The front page, with dot plots if there are ``figures`` to add them to; fewer numbers each of many suites."""
    plots = dict(_plots(run, figures)) if figures else {}
    results = [] if run.papers else [list(_results(suite, run, figures)) for suite in run.listed[: numbers.NUMBERS]]
    for most in (numbers.NUMBERS, 5, 2, 1, 0):
        page = Page(PATH, run.title, list(_blocks(run, most, plots, results)))
        if len(as_markdown(page).encode()) <= LIMIT:
            break
    return page


def step_summary(run: Run) -> str:
    """The front page without figures and links, as Markdown for ``$GITHUB_STEP_SUMMARY``."""
    return as_markdown(front_page(run)._replace(path=""))


def _plots(run: Run, figures: Figures) -> Iterator[tuple[str, Picture]]:
    for name, judged in grouped(run.judgements, run.papers).items():
        drawing = numbers.dot_plot(judged, numbers.known_for(judged))
        if drawing:
            title = f"{name}: measured against printed"
            alt = "measured over printed, a row for each number of the table above and one for all"
            yield name, Picture(figures.add(f"numbers-{name}", title, alt, [drawing, numbers.legend()]))


def _blocks(run: Run, most: int, plots: dict[str, Picture], results: list[list[Block]]) -> Iterator[Block]:
    yield Heading(1, run.title, "top")
    if summary := _summary(run):
        yield Paragraph(f"{summary}.")
    yield Paragraph(["On one page, to sort and filter: ", Link("report.html", "report.html"), "."], in_html=False)
    if failed := failures(run.suites):
        yield Paragraph("What failed or was skipped:")
        yield Bullets([numbers.shortened_words(item, REASON) for item in failed[:FAILURES]])
        if len(failed) > FAILURES:
            yield Paragraph(f"{len(failed) - FAILURES} more are on the pages of their suites.")
    if run.judgements:
        yield Heading(2, "What held", "held")
        yield from held(run.judgements, run.papers)
    if not run.papers:
        yield from _experiments(run)
        yield from (block for found in results[:most] for block in found)
    for name, judged in grouped(run.judgements, run.papers).items():
        if chosen := numbers.known_for(judged, most):
            yield Heading(2, name, anchor("numbers", name))
            yield numbers.table_of(name, chosen)
            if name in plots:
                yield plots[name]
    if run.papers:
        yield from _index(run)
    yield Heading(2, "How to read this", "legend")
    yield Bullets([*LEGEND, *(CLAIMS_LEGEND if run.judgements else ()), *(PAPERS_LEGEND if run.papers else ())])
    if conditions := list(facts(run.environment)):
        yield Heading(2, "Conditions", "conditions")
        yield Bullets([numbers.shortened_words(one, REASON) for one in conditions[:CONDITIONS]])


def _summary(run: Run) -> str:
    environment = run.environment
    words = [f"{key} {environment[key]}" for key in ("scale", "dataset", "device") if environment.get(key)]
    words += asked(environment)
    if "started" in environment:
        words.append(time(environment))
    if counted := states(run.suites):
        words.append(f"experiments: {counted}")
    return "; ".join(words)


def held(judgements: Sequence[Judgement], papers: Mapping[str, str]) -> Iterator[Block]:
    """A table of the papers, whose predictions count, and one of the suites of no paper, where all claims do."""
    found = headlines(judgements, papers)
    of_papers = [one for one in found if one.name in papers.values()]
    if of_papers:
        yield _of_papers(of_papers[:SUITES])
        yield Paragraph(
            "Predictions of the papers by verdict, in this run and, in brackets, in the kept reference runs on the"
            " papers' data; apart from them, how many of the other claims hold."
        )
    others = {name: some for name, some in grouped(judgements, papers).items() if name not in papers.values()}
    if others:
        yield _of_suites(dict(islice(others.items(), SUITES)))
    if left_out := max(len(of_papers) - SUITES, 0) + max(len(others) - SUITES, 0):
        yield Paragraph(f"{left_out} more have their claims on the pages of their suites.")


def _of_papers(found: Sequence[Headline]) -> Table:
    """A line a paper: its predictions by verdict, here and in the reference runs, and apart from them the rest."""

    def count(one: Headline, verdicts: Sequence[Verdict]) -> str:
        here, there = (sum(counted[name] for name in verdicts) for counted in (one.here, one.reference))
        return f"{here} ({there})" if there else str(here or NOTHING)

    heads = ["Paper", "Predictions", *COLUMNS, *(name.capitalize() for name in OTHERS.values())]
    rows: list[list[Words]] = [
        [
            Link(one.name, PATH, anchor("numbers", one.name)),
            str(one.here.total() or NOTHING),
            *(count(one, verdicts) for verdicts in COLUMNS.values()),
            *(f"{held} of {total}" if total else NOTHING for held, total in one.others.values()),
        ]
        for one in found
    ]
    return Table("Claims by paper and verdict", heads, rows).without_empty_columns


def _of_suites(found: Mapping[str, Sequence[Judgement]]) -> Table:
    """A line a suite of no paper: its claims by verdict."""
    rows: list[list[Words]] = []
    for name, judged in found.items():
        counted = Counter(one.verdict for one in judged)
        of_columns = (sum(counted[verdict] for verdict in verdicts) for verdicts in COLUMNS.values())
        link = Link(name, PATH, anchor("numbers", name))
        rows.append([link, str(len(judged)), *(str(count or NOTHING) for count in of_columns)])
    heads = ["Suite of no paper", "Claims", *COLUMNS]
    return Table("Claims by suite and verdict", heads, rows).without_empty_columns


def _experiments(run: Run) -> Iterator[Block]:
    """What ran, in a run without a paper."""
    rows: list[list[Words]] = [
        [
            Link(one["name"], suite_path(suite["name"]), anchor("experiment", suite["name"], one["name"])),
            Link(suite["name"], suite_path(suite["name"]), anchor("suite", suite["name"])),
            numbers.shortened(str(one.get("title") or "")),
            Badge(one["status"]) if one.get("status") else NOTHING,
            NOTHING if one.get("seconds") is None else duration(one["seconds"]),
        ]
        for suite in run.listed
        for one in suite["experiments"]
    ]
    if rows:
        yield Heading(2, "Experiments", "experiments")
        more = f"{len(rows) - SUITES} more are on the pages of their suites." if len(rows) > SUITES else ""
        heads = ["Experiment", "Suite", "Title", "Status", "Took"]
        yield Table("Experiments of this run", heads, rows[:SUITES], more=more).without_empty_columns


def _results(suite: EnvironmentTree, run: Run, figures: Figures | None) -> Iterator[Block]:
    """What a suite of no paper measured: accuracy against bytes, and the change from each experiment's first case."""
    name = suite["name"]
    records = [record for record in run.records if record.suite == name]
    if figures:
        for i, (wanted, measured) in enumerate(fronts(suite, records)):
            section = pareto_section(figures, f"front-{name}-{i + 1}", wanted, measured)
            yield from (block for block in section if isinstance(block, Picture))
    tables = [table for one in suite["experiments"] for table in _changes(one["name"], records)]
    if tables:
        yield Heading(2, f"{name}: what changed", anchor("changes", name))
        yield Paragraph(list(CHANGES))
        yield from tables


def _changes(experiment: str, records: Sequence[Record]) -> Iterator[Block]:
    own = [record for record in records if record.experiment == experiment]
    for i, (conditions, group) in enumerate(by_conditions(own).items()):
        rows = summarise([*all_bytes(group), *group])
        table = against_first(rows, f"Cases of {experiment}, {conditions_text(conditions)}", FIRST_METRICS)
        if table and i < CONDITIONS_SHOWN:
            yield Paragraph([Code(experiment), f", {conditions_text(conditions)}:"])
            yield table


def _index(run: Run) -> Iterator[Block]:
    listed = run.listed
    if not listed:
        return
    yield Heading(2, "All claims, tables and figures", "suites")
    claims = {suite["name"]: 0 for suite in listed}
    for one in run.judgements:
        claims[one.suite] = claims.get(one.suite, 0) + 1
    rows: list[list[Words]] = [
        [
            Link(suite["name"], suite_path(suite["name"]), anchor("suite", suite["name"])),
            numbers.shortened(str(suite.get("title", ""))),
            str(len(suite["experiments"])),
            str(claims[suite["name"]]),
        ]
        for suite in listed[:SUITES]
    ]
    more = f"{len(listed) - SUITES} more are in the folder suites." if len(listed) > SUITES else ""
    yield Table("Suites of this run", ["Suite", "Title", "Experiments", "Claims"], rows, more=more)


def terminal(judgements: Sequence[Judgement], papers: Mapping[str, str], width: int) -> Iterator[str]:
    """The summary as lines of ``width`` characters: of each paper what held, and the numbers that it is known for."""
    for headline in headlines(judgements, papers):
        yield from textwrap.wrap(headline.text(), width, subsequent_indent="  ", break_on_hyphens=False)
    for name, judged in grouped(judgements, papers).items():
        if any(one.headline for one in judged):
            yield from ("", name, *numbers.aligned(numbers.known_for(judged), width))
