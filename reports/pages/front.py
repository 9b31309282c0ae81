"""The front page of a report: what held, of each paper the numbers that it is known for, and where the rest stands."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from reports.claims.headline import OTHERS, Headline, grouped, headlines
from reports.claims.statistics import CONFIDENCE, MIN_SEEDS
from reports.claims.verdict import Judgement, Verdict
from reports.figures.figure import Figures
from reports.pages import numbers
from reports.pages.as_markdown import as_markdown
from reports.pages.document import (
    Block,
    Bullets,
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
from reports.pages.environment import EnvironmentTree, asked, facts, failures, states, time
from reports.pages.summary import UNSTABLE

PATH = "report"
LIMIT = 60_000  # bytes of the front page; longer ones hide what they are for
SUITES = 60  # that are listed, of all papers too
CONDITIONS = 20  # that are told; environment.json has all
FAILURES = 10  # that are told in full
REASON = 300  # characters of a failure's reason, or of a condition
TITLE = 100  # characters
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
    f"reproduced, not-reproduced: what is claimed holds, or fails, beyond its noise, which is the {CONFIDENCE:.0%}"
    " interval of the mean over seeds. trend: the direction holds so, the size does not. inconclusive: the noise leaves"
    " it open. not-comparable: about learning, and on other data or trained less than the claim needs.",
    "Impossible: the paper contradicts itself there, or says two things that cannot both hold; arithmetic shows it.",
    "prediction: a number or direction of the paper to which nothing was fitted; calibrated: fitted to it, or to one"
    " that implies it; identity: true by construction, or a self-test; ours: what the suite adds.",
    f"Unstable: seeds or repeats spread over more than {UNSTABLE:.0%} of the mean. Fewer than {MIN_SEEDS} seeds are"
    " pointed out.",
    "A diamond in a figure is what the paper prints, on the same data. Error bars need three seeds.",
    "Every number stands in records.jsonl with its conditions; different conditions are never merged.",
)


class Run(NamedTuple):
    """What a report is about."""

    judgements: list[Judgement]
    environment: EnvironmentTree
    suites: list[EnvironmentTree]

    @property
    def papers(self) -> dict[str, str]:
        return numbers.papers_of(self.suites)

    @property
    def title(self) -> str:
        asked_for = str(self.environment.get("run", "")).rpartition("-")[0]
        names = ", ".join(suite["name"] for suite in self.suites if suite["experiments"])
        return f"SplitMEC report: {numbers.shortened(asked_for or names or 'nothing ran', TITLE)}"


def front_page(run: Run, figures: Figures | None = None) -> Page:
    """The front page, with dot plots if there are ``figures`` to add them to; fewer numbers each of many suites."""
    plots = dict(_plots(run, figures)) if figures else {}
    for most in (numbers.NUMBERS, 5, 2, 1, 0):
        page = Page(PATH, run.title, list(_blocks(run, most, plots)))
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


def _blocks(run: Run, most: int, plots: dict[str, Picture]) -> Iterator[Block]:
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
        yield held(headlines(run.judgements, run.papers))
        yield Paragraph(
            "Predictions of the papers by verdict, in this run and, in brackets, in the kept reference runs on the"
            " papers' data; apart from them, how many of the other claims hold."
        )
    for name, judged in grouped(run.judgements, run.papers).items():
        if chosen := numbers.known_for(judged, most):
            yield Heading(2, name, anchor("numbers", name))
            yield numbers.table_of(name, chosen)
            if name in plots:
                yield plots[name]
    yield from _index(run)
    yield Heading(2, "How to read this", "legend")
    yield Bullets(LEGEND)
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


def held(found: Sequence[Headline]) -> Table:
    """A line a paper: its predictions by verdict, here and in the reference runs, and apart from them the rest."""

    def count(one: Headline, verdicts: Sequence[Verdict]) -> str:
        here, there = (sum(counted[name] for name in verdicts) for counted in (one.here, one.reference))
        return f"{here} ({there})" if there else str(here or "–")

    heads = ["Paper", "Predictions", *COLUMNS, *(name.capitalize() for name in OTHERS.values())]
    rows: list[list[Words]] = [
        [
            Link(one.name, PATH, anchor("numbers", one.name)),
            str(one.here.total()),
            *(count(one, verdicts) for verdicts in COLUMNS.values()),
            *(f"{held} of {total}" if total else "–" for held, total in one.others.values()),
        ]
        for one in found[:SUITES]
    ]
    more = f"{len(found) - SUITES} more have their claims on the pages of their suites." if len(found) > SUITES else ""
    return Table("Claims by paper and verdict", heads, rows, more=more)


def _index(run: Run) -> Iterator[Block]:
    listed = [suite for suite in run.suites if suite["experiments"]]
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


def terminal(judgements: Sequence[Judgement], papers: Mapping[str, str]) -> Iterator[str]:
    """The summary as lines of text: of each paper what held, and the numbers that it is known for."""
    for headline in headlines(judgements, papers):
        yield headline.text()
    for name, judged in grouped(judgements, papers).items():
        if any(one.headline for one in judged):
            yield from ("", name, *numbers.aligned(numbers.known_for(judged)))
