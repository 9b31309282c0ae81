"""Means and standard errors of records, by case and seed. Different conditions are never merged."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from reports.record import CONDITIONS, CaseValue, Record

MIN_SEEDS = 3  # with fewer, noise and effect cannot be distinguished

CaseItems = tuple[tuple[str, CaseValue], ...]  # sorted by key; hashable
Seeds = dict[int, float]  # seed -> value, the mean over repeats


class MixedConditionsError(ValueError):
    """Records of different conditions cannot be combined into one number; names the condition."""


class Estimate(NamedTuple):
    """A mean over ``seeds`` seeds (0: none in common) with its standard error (None with fewer than two seeds)."""

    mean: float
    error: float | None
    seeds: int

    def beyond(self, reference: float, sign: int) -> bool:
        """Above (sign 1) or below (-1) ``reference`` beyond twice the standard error, with at least ``MIN_SEEDS``."""
        return self.seeds >= MIN_SEEDS and sign * (self.mean - reference) > 2 * (self.error or 0.0)


def estimate(values: Sequence[float]) -> Estimate:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values))


def same(a: CaseValue, b: CaseValue) -> bool:
    """Whether two case values are equal: 10 equals 10.0, but True does not equal 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def has_values(case: Mapping[str, CaseValue], values: Mapping[str, CaseValue]) -> bool:
    return all(key in case and same(case[key], value) for key, value in values.items())


def differing_condition(records: Sequence[Record], names: Sequence[str] = CONDITIONS) -> str | None:
    """First condition that differs among ``records``, as "mode (in-process, live)"; None if all are equal."""
    for name in names:
        values = {str(getattr(record, name)) for record in records}
        if len(values) > 1:
            return f"{name} ({', '.join(sorted(values))})"
    return None


def group_by_case(records: Iterable[Record], leave_out: Iterable[str] = ()) -> dict[CaseItems, Seeds]:
    """Group the records of one metric by case, without the keys in ``leave_out``. Raises MixedConditionsError."""
    ignored = set(leave_out)
    groups: dict[CaseItems, list[Record]] = {}
    for record in records:
        case = tuple(sorted((key, value) for key, value in record.case.items() if key not in ignored))
        groups.setdefault(case, []).append(record)
    return {case: _by_seed(group) for case, group in groups.items()}


def _by_seed(records: list[Record]) -> Seeds:
    if differing := differing_condition(records, (*CONDITIONS, "unit")):
        raise MixedConditionsError(differing)
    values: dict[int, list[float]] = {}
    for record in records:
        values.setdefault(record.seed, []).append(record.value)
    return {seed: statistics.fmean(repeats) for seed, repeats in values.items()}


def join_cases(sides: Sequence[dict[CaseItems, Seeds]]) -> list[tuple[CaseItems, list[Seeds]]]:
    """Combinations of one case per side that agree in their common keys."""
    rows: list[tuple[CaseItems, list[Seeds]]] = [((), [])]
    for side in sides:
        rows = [
            (tuple(sorted({**dict(right), **dict(left)}.items())), [*row, seeds])
            for left, row in rows
            for right, seeds in side.items()
            if all(same(value, dict(right)[key]) for key, value in left if key in dict(right))
        ]
    return rows


def combine_by_seed(combine: Callable[[float, float], float], left: Seeds, right: Seeds) -> Estimate:
    """Apply ``combine`` seed by seed; without a common seed, to the means, with no standard error."""
    common = sorted(left.keys() & right.keys())
    if not common:
        return Estimate(combine(statistics.fmean(left.values()), statistics.fmean(right.values())), None, 0)
    return estimate([combine(left[seed], right[seed]) for seed in common])
