"""The numbers that a paper prints, beside those that were measured for them: read off the paper's claims."""

from collections.abc import Iterable, Sequence

from reports.claims.claim import Selector
from reports.claims.comparable import is_of
from reports.claims.statistics import has_values
from reports.claims.verdict import Judgement
from reports.pages.summary import SummaryRow


def with_published(
    rows: Iterable[SummaryRow], experiment: str, dataset: str, judgements: Sequence[Judgement]
) -> list[SummaryRow]:
    """``rows`` of one ``experiment``, each with the number of the first claim that is about just its metric and case.

    A number on another data set than ``dataset`` is left out.
    """
    printed = [
        (selector, paper)
        for one in judgements
        if one.data is None or is_of(dataset, one.data)
        for selector, paper in _printed(one)
        if selector.experiment == experiment
    ]

    def number_of(row: SummaryRow) -> float | None:
        case = dict(row.case)
        found = (paper for of, paper in printed if of.metric == row.metric and has_values(case, of.case))
        return next(found, None)

    return [row._replace(published=number_of(row)) for row in rows]


def _printed(one: Judgement) -> list[tuple[Selector, float]]:
    """The paper's numbers of the claim, by what they are numbers of; none of a ratio, a difference or a bound."""
    match one.form, one.paper:
        case "value", int() | float() as paper:
            return [(one.of[0], paper)]
        case "order", list() as papers if len(papers) == len(one.of):
            return list(zip(one.of, papers, strict=True))
    return []
