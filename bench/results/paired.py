"""Two or more runs, compared metric by metric: differences paired by case and seed, with their noise.

Runs of different conditions are compared as they are, and the conditions that differ are named; nothing is pooled.
"""

import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from bench.gate.compare import GateInputError, read_baseline
from bench.gate.conditions import differing, facts
from bench.suite.document import InputError
from reports.claims.statistics import ROUNDING, CaseItems, Estimate, Seeds, estimate
from reports.figures.panels import PIXEL_KEYS
from reports.pages.report import ReportError, read_run
from reports.record import CONDITIONS, CaseValue, Record

Change = Literal["changed", "unknown", "within-noise", "same"]  # in the order of a table
CHANGES: tuple[Change, ...] = ("changed", "unknown", "within-noise", "same")
Key = tuple[str, str, str, str, CaseItems]  # suite, experiment, metric, unit, case
Conditions = tuple[str, ...]  # values of CONDITIONS


class Side(msgspec.Struct, frozen=True):
    """A run by the name that it was given as, its records and, where they are known, its other conditions."""

    name: str
    records: list[Record]
    facts: dict[str, str] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one case in two runs: means, and the paired difference over the seeds in common.

    ``error`` is the standard error of the difference and ``interval`` its 95 % interval; both are None where the noise
    is not known, as with one seed, or none in common.
    """

    suite: str
    experiment: str
    metric: str
    unit: str
    case: dict[str, CaseValue]
    before: float
    after: float
    difference: float
    error: float | None
    interval: tuple[float, float] | None
    seeds: int  # in common
    change: Change
    conditions: dict[str, tuple[str, str]] = {}  # those that differ, before and after

    @property
    def certain(self) -> float:
        """The part of the change that lies beyond its noise, as a share of the larger value."""
        margin = 0.0 if self.interval is None else (self.interval[1] - self.interval[0]) / 2
        return (abs(self.difference) - margin) / (max(abs(self.before), abs(self.after)) or 1.0)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``after`` against ``before``: rows, what changed most first, and what only one of the two has."""

    before: str
    after: str
    environment: dict[str, tuple[str, str]]  # what differs beside the conditions of records
    rows: list[Row]
    only_before: list[str]  # suite/experiment/metric
    only_after: list[str]


def read_side(path: Path) -> Side:
    """The run in a folder, or the records of a file. Raises InputError."""
    try:
        if path.is_dir():
            records, _, environment = read_run(path)
            known = facts(environment)
        else:
            baseline = read_baseline(path)
            records, known = baseline.records, baseline.facts
    except (ReportError, GateInputError) as error:
        raise InputError([str(error)]) from None
    if not records:
        raise InputError([f"{path}: has no records"])
    return Side(str(path), records, known)


def compare(before: Side, after: Side) -> Comparison:
    """Compare ``after`` with ``before``."""
    sides = _grouped(before.records), _grouped(after.records)
    rows = [row for key in sides[0].keys() & sides[1].keys() for row in _rows(key, sides[0][key], sides[1][key])]
    rows.sort(key=lambda row: (CHANGES.index(row.change), -row.certain, row.suite, row.experiment, row.metric))
    return Comparison(
        before=before.name,
        after=after.name,
        environment=differing(before.facts, after.facts),
        rows=rows,
        only_before=_names(sides[0].keys() - sides[1].keys()),
        only_after=_names(sides[1].keys() - sides[0].keys()),
    )


def _grouped(records: Iterable[Record]) -> dict[Key, dict[Conditions, Seeds]]:
    """The mean of each seed, by what was measured and under which conditions."""
    values: dict[Key, dict[Conditions, dict[int, list[float]]]] = {}
    for one in records:
        if not one.case.keys() >= set(PIXEL_KEYS):
            key = (one.suite, one.experiment, one.metric, one.unit, tuple(sorted(one.case.items())))
            conditions = tuple(str(getattr(one, name)) for name in CONDITIONS)
            values.setdefault(key, {}).setdefault(conditions, {}).setdefault(one.seed, []).append(one.value)
    return {
        key: {under: {seed: statistics.fmean(found) for seed, found in seeds.items()} for under, seeds in one.items()}
        for key, one in values.items()
    }


def _rows(key: Key, before: dict[Conditions, Seeds], after: dict[Conditions, Seeds]) -> Iterator[Row]:
    """A row for each conditions in common, or one for the only conditions of each side."""
    pairs = [(one, one) for one in before if one in after]
    if not pairs and len(before) == len(after) == 1:
        pairs = [(next(iter(before)), next(iter(after)))]
    for then, now in pairs:
        yield _row(key, before[then], after[now], then, now)


def _row(key: Key, before: Seeds, after: Seeds, then: Conditions, now: Conditions) -> Row:
    suite, experiment, metric, unit, case = key
    common = sorted(before.keys() & after.keys())
    means = [statistics.fmean([seeds[one] for one in common or seeds]) for seeds in (before, after)]
    found = Estimate(means[1] - means[0], None, 0)
    if common:
        found = estimate([after[seed] - before[seed] for seed in common])
    margin = None if found.error is None else found.margin()
    changed = [(name, *values) for name, *values in zip(CONDITIONS, then, now, strict=True) if values[0] != values[1]]
    return Row(
        suite=suite,
        experiment=experiment,
        metric=metric,
        unit=unit,
        case=dict(case),
        before=means[0],
        after=means[1],
        difference=found.mean,
        error=found.error,
        interval=None if margin is None else (found.mean - margin, found.mean + margin),
        seeds=len(common),
        change=_change(found, margin, all(_same(before[seed], after[seed]) for seed in common) if common else False),
        conditions={name: (was, is_now) for name, was, is_now in changed},
    )


def _change(found: Estimate, margin: float | None, same: bool) -> Change:
    if same:
        return "same"
    if margin is None:
        return "unknown"
    return "changed" if abs(found.mean) > margin else "within-noise"


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=ROUNDING)


def _names(keys: Iterable[Key]) -> list[str]:
    return sorted({"/".join(key[:3]) for key in keys})
