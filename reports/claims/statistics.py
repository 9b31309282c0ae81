"""What number do records give, and how sure is it? Conditions are never merged."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from reports.record import CaseValue, Record

CONDITIONS = ("mode", "scale", "dataset", "shaping", "device")

CaseItems = tuple[tuple[str, CaseValue], ...]  # sorted by key, to be a key itself
Seeds = dict[int, float]  # seed -> value, repeats of a seed averaged


class MixedConditionsError(ValueError):
    """Records that were measured under different conditions would have become one number."""


class Estimate(NamedTuple):
    """A mean over ``seeds`` seeds with its standard error (None: fewer than two seeds).

    ``seeds`` is 0 where two sides had no seed in common and only their means could be compared.
    """

    mean: float
    error: float | None
    seeds: int

    def beyond(self, reference: float, sign: int) -> bool:
        """Above (sign 1) or below (-1) ``reference`` beyond twice its standard error, over >= 3 seeds."""
        return self.seeds >= 3 and sign * (self.mean - reference) > 2 * (self.error or 0.0)


def estimate(values: Sequence[float]) -> Estimate:
    """The estimate from one value a seed."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values))


def same(a: CaseValue, b: CaseValue) -> bool:
    """Equal as case values: 10 is 10.0, but True is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def clash(records: Iterable[Record], names: Sequence[str] = CONDITIONS) -> str | None:
    """The first condition that differs among ``records``, as "mode (in-process, live)"; None if none does."""
    seen = [tuple(str(getattr(record, name)) for name in names) for record in records]
    for name, values in zip(names, zip(*seen, strict=True), strict=False):
        if len(set(values)) > 1:
            return f"{name} ({', '.join(sorted(set(values)))})"
    return None


def cells(records: Iterable[Record], leave_out: Iterable[str] = ()) -> dict[CaseItems, Seeds]:
    """The records of one metric by case, less the case keys in ``leave_out``. Raises MixedConditionsError."""
    drop = set(leave_out)
    groups: dict[CaseItems, list[Record]] = {}
    for record in records:
        case = tuple(sorted((key, value) for key, value in record.case.items() if key not in drop))
        groups.setdefault(case, []).append(record)
    return {case: _by_seed(group) for case, group in groups.items()}


def _by_seed(records: list[Record]) -> Seeds:
    if differing := clash(records):
        raise MixedConditionsError(differing)
    if len(units := {record.unit for record in records}) > 1:
        raise MixedConditionsError(f"units ({', '.join(sorted(units))})")
    values: dict[int, list[float]] = {}
    for record in records:
        values.setdefault(record.seed, []).append(record.value)
    return {seed: statistics.fmean(repeats) for seed, repeats in values.items()}


def join(sides: Sequence[dict[CaseItems, Seeds]]) -> list[tuple[CaseItems, list[Seeds]]]:
    """Every combination of one cell a side whose cases agree in the keys they share."""
    rows: list[tuple[CaseItems, list[Seeds]]] = [((), [])]
    for side in sides:
        rows = [
            (_union(left, right), [*row, seeds])
            for left, row in rows
            for right, seeds in side.items()
            if _agree(left, right)
        ]
    return rows


def _agree(left: CaseItems, right: CaseItems) -> bool:
    other = dict(right)
    return all(same(value, other[key]) for key, value in left if key in other)


def _union(left: CaseItems, right: CaseItems) -> CaseItems:
    return tuple(sorted({**dict(right), **dict(left)}.items()))


def paired(combine: Callable[[float, float], float], left: Seeds, right: Seeds) -> Estimate:
    """``combine`` of both sides, seed by seed; of their means, without an error, if no seed is in common."""
    common = sorted(left.keys() & right.keys())
    if not common:
        mean = combine(statistics.fmean(left.values()), statistics.fmean(right.values()))
        return Estimate(mean, None, 0)
    return estimate([combine(left[seed], right[seed]) for seed in common])
