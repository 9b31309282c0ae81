"""Means and standard errors of records, by case and seed. Different conditions are never merged."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from reports.record import CONDITIONS, CaseValue, Record

MIN_SEEDS = 3  # with fewer, noise and effect cannot be distinguished
CONFIDENCE = 0.95
MOST_SEEDS = 1000  # that are proposed to decide a claim
ROUNDING = 1e-12  # part of a value by which sums in another order differ

CaseItems = tuple[tuple[str, CaseValue], ...]  # sorted by key; hashable
Seeds = dict[int, float]  # seed -> value, the mean over repeats


class MixedConditionsError(ValueError):
    """Records of different conditions cannot be combined into one number; names the condition."""


class Estimate(NamedTuple):
    """A mean over ``seeds`` seeds (0: none in common) and its standard error.

    The error is None where the noise is not known: with one seed, or none in common. It is 0 where there is none.
    """

    mean: float
    error: float | None
    seeds: int

    def margin(self, comparisons: int = 1) -> float:
        """Half the width of the confidence interval of the mean, by Student's t; infinite if the noise is not known.

        The confidence is ``CONFIDENCE`` for all of so many ``comparisons`` together (Bonferroni).
        """
        return math.inf if self.error is None else _margin(self.error, self.seeds, comparisons)

    def lies_within(self, low: float, high: float) -> bool:
        """Whether the confidence interval lies from ``low`` to ``high``, up to the rounding of decimals."""
        margin = self.margin()
        return _at_most(low, self.mean - margin) and _at_most(self.mean + margin, high)

    def lies_outside(self, low: float, high: float, comparisons: int = 1) -> bool:
        """Whether the confidence interval, of as many ``comparisons``, lies below ``low`` or above ``high``."""
        margin = self.margin(comparisons)
        return not (_at_most(low, self.mean + margin) and _at_most(self.mean - margin, high))

    def seeds_to_decide(self, low: float, high: float) -> int | None:
        """How many seeds of this spread tell on which side of ``low`` and ``high`` the mean lies; None: no such number.

        That is the least at which the interval has left both limits behind, at most ``MOST_SEEDS``.
        """
        if self.error is None:
            return None
        distance = min(abs(self.mean - limit) for limit in (low, high))
        deviation = self.error * math.sqrt(self.seeds)
        counts = range(self.seeds + 1, MOST_SEEDS + 1)
        return next((n for n in counts if _margin(deviation / math.sqrt(n), n) < distance), None)


def _margin(error: float, seeds: int, comparisons: int = 1) -> float:
    if not error:
        return 0.0
    from scipy.special import stdtrit  # noqa: PLC0415  (as slow to import as all else that reads suites)

    beyond = (1 - CONFIDENCE) / comparisons / 2  # on either side
    return error * float(stdtrit(seeds - 1, 1 - beyond))


def _at_most(a: float, b: float) -> bool:
    return a <= b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def estimate(values: Sequence[float]) -> Estimate:
    if len(values) < 2:
        return Estimate(values[0], None, len(values))
    spread = statistics.stdev(values)
    error = 0.0 if spread <= ROUNDING * max(map(abs, values)) else spread / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), error, len(values))


def without_noise(measured: Estimate) -> Estimate:
    """``measured``, of which one seed is enough. A spread over several seeds stays: it is no quantity without noise."""
    return measured._replace(error=0.0) if measured.error is None else measured


def same(a: CaseValue, b: CaseValue) -> bool:
    """Whether two case values are equal: 10 equals 10.0, but True does not equal 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def has_values(case: Mapping[str, CaseValue], values: Mapping[str, CaseValue]) -> bool:
    return all(key in case and same(case[key], value) for key, value in values.items())


def agree(case: Mapping[str, CaseValue], values: Mapping[str, CaseValue]) -> bool:
    """Whether ``case`` has these ``values`` where it has their keys."""
    return all(same(case[key], value) for key, value in values.items() if key in case)


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
