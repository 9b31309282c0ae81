"""Pareto front: points of several experiments on a plane of cost and worth, and dominance between them.

A point dominates another if it costs no more, is worth no less, and is better in one of both. A paper's own points may
be shown beside measured ones; they never count as measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from reports.claims.comparable import is_of
from reports.claims.statistics import MIN_SEEDS, has_values, same
from reports.formatting import value_text
from reports.pages.summary import SummaryRow, summarise
from reports.record import CaseValue, Record


class FrontMethod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points of one method: one per case of ``experiment`` that has both metrics."""

    name: str
    experiment: str
    cost: str
    worth: str
    key: str  # case key whose value names the point
    case: dict[str, CaseValue] = {}  # values that the case must have
    only: list[CaseValue] | None = None  # the values of ``key`` that are taken
    reference: bool = False  # the other methods are compared with it


class PublishedPoints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A paper's own points of one method: cost and worth by point name."""

    name: str
    points: dict[str, tuple[float, float]]


class FrontSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Pareto front under a suite's ``fronts``."""

    title: str
    description: str = ""
    cost: str  # title of the axis, like ``worth``
    worth: str
    methods: list[FrontMethod]
    printed: list[PublishedPoints] = []
    data: str | None = None  # data set of ``printed``, shown beside results on no other; None: shown beside any


class ParetoPoint(NamedTuple):
    """A named point of one method; the standard deviation of its worth over seeds is 0 with too few of them."""

    method: str
    name: str
    cost: float
    worth: float
    deviation: float = 0.0

    def dominates(self, other: "ParetoPoint") -> bool:
        no_worse = self.cost <= other.cost and self.worth >= other.worth
        return no_worse and (self.cost, self.worth) != (other.cost, other.worth)


def measured_points(spec: FrontSpec, records: Iterable[Record]) -> dict[str, list[ParetoPoint]]:
    """Points by measured method, from records of one set of conditions."""
    by_experiment: dict[str, list[Record]] = {}
    for record in records:
        by_experiment.setdefault(record.experiment, []).append(record)
    rows = {name: summarise(found) for name, found in by_experiment.items()}
    points = {method.name: list(_points(method, rows.get(method.experiment, []))) for method in spec.methods}
    return {name: found for name, found in points.items() if found}


def published_points(spec: FrontSpec, dataset: str) -> dict[str, list[ParetoPoint]]:
    """The paper's points by method, if they are of ``dataset``; empty otherwise."""
    if spec.data is not None and not is_of(dataset, spec.data):
        return {}
    return {one.name: [ParetoPoint(one.name, name, *axes) for name, axes in one.points.items()] for one in spec.printed}


def _points(method: FrontMethod, rows: Sequence[SummaryRow]) -> Iterator[ParetoPoint]:
    costs = {row.case: row.mean for row in rows if row.metric == method.cost}
    for row in rows:
        case = dict(row.case)
        if row.metric == method.worth and row.case in costs and _selected(method, case):
            name = value_text(case[method.key])
            deviation = row.deviation if row.deviation and row.seeds >= MIN_SEEDS else 0.0
            yield ParetoPoint(method.name, name, costs[row.case], row.mean, deviation)


def _selected(method: FrontMethod, case: Mapping[str, CaseValue]) -> bool:
    if method.key not in case or not has_values(case, method.case):
        return False
    return method.only is None or any(same(case[method.key], value) for value in method.only)


def pareto_front(points: Iterable[ParetoPoint]) -> list[ParetoPoint]:
    """Points that no other dominates, in order of cost."""
    points = list(points)
    front = [one for one in points if not any(other.dominates(one) for other in points)]
    return sorted(front, key=lambda point: point.cost)


def best_within_cost(points: Iterable[ParetoPoint], cost: float) -> ParetoPoint | None:
    """The point of highest worth, then lowest cost, among those of at most ``cost``; None if there is none."""
    affordable = (point for point in points if point.cost <= cost)
    return max(affordable, key=lambda point: (point.worth, -point.cost), default=None)
