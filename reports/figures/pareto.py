"""Which method gives most for its cost? Points of several experiments on one plane, and what dominates what.

A point dominates another if it costs no more and is worth no less, and is better in one of both. A paper's own points
may stand beside those that were measured; they are never counted as measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from reports.claims.statistics import same
from reports.formatting import value_text
from reports.pages.summary import SummaryRow, summarise
from reports.record import CaseValue, Record


class FrontMethod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method's points: one for each case of ``experiment`` with both metrics.

    ``case`` are values that a point's case must hold, ``key`` is the case key by which points are called, ``only`` are
    the values of it that are taken. ``reference`` marks what others are held against.
    """

    name: str
    experiment: str
    cost: str
    worth: str
    key: str
    case: dict[str, CaseValue] = {}
    only: list[CaseValue] | None = None
    reference: bool = False


class Printed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method's points as a paper has them: cost and worth by name."""

    name: str
    points: dict[str, tuple[float, float]]


class FrontSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plane of cost and worth that a suite asks for under ``fronts``. ``cost`` and ``worth`` name its axes.

    What was measured is held against ``printed`` only where it was measured on ``data``, if that is given.
    """

    title: str
    description: str = ""
    cost: str
    worth: str
    methods: list[FrontMethod]
    printed: list[Printed] = []
    data: str | None = None


class Spot(NamedTuple):
    """A point: of which method, called what, where; its worth's standard deviation over seeds."""

    method: str
    name: str
    cost: float
    worth: float
    deviation: float = 0.0

    def dominates(self, other: "Spot") -> bool:
        """Costs no more, is worth no less, and is better in one of both."""
        mine, theirs = (-self.cost, self.worth), (-other.cost, other.worth)
        return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def measured(spec: FrontSpec, records: Iterable[Record]) -> dict[str, list[Spot]]:
    """The spots of each method that was measured, of records under one set of conditions."""
    by_experiment: dict[str, list[Record]] = {}
    for record in records:
        by_experiment.setdefault(record.experiment, []).append(record)
    rows = {name: summarise(some) for name, some in by_experiment.items()}
    found = {method.name: list(_spots(method, rows.get(method.experiment, []))) for method in spec.methods}
    return {name: spots for name, spots in found.items() if spots}


def printed(spec: FrontSpec) -> dict[str, list[Spot]]:
    """The paper's own spots."""
    return {one.name: [Spot(one.name, name, *place) for name, place in one.points.items()] for one in spec.printed}


def _spots(method: FrontMethod, rows: Sequence[SummaryRow]) -> Iterator[Spot]:
    costs = {row.case: row.mean for row in rows if row.metric == method.cost}
    for row in rows:
        case = dict(row.case)
        if row.metric != method.worth or row.case not in costs or not _wanted(method, case):
            continue
        yield Spot(method.name, value_text(case[method.key]), costs[row.case], row.mean, row.deviation or 0.0)


def _wanted(method: FrontMethod, case: Mapping[str, CaseValue]) -> bool:
    held = all(key in case and same(case[key], value) for key, value in method.case.items())
    return held and method.key in case and (method.only is None or any(same(case[method.key], o) for o in method.only))


def front(spots: Iterable[Spot]) -> list[Spot]:
    """Those that no other dominates, by cost."""
    everything = list(spots)
    return sorted(
        (one for one in everything if not any(other.dominates(one) for other in everything)), key=lambda spot: spot.cost
    )


def best_within(spots: Iterable[Spot], cost: float) -> Spot | None:
    """The spot of most worth, then of least cost, among those that cost no more than ``cost``."""
    return max((spot for spot in spots if spot.cost <= cost), key=lambda spot: (spot.worth, -spot.cost), default=None)
