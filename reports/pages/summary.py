"""Summary of records: one row per case and metric, with mean and spread over seeds and repeats."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from reports.claims.statistics import MIN_SEEDS, CaseItems
from reports.formatting import label, number, value_text
from reports.record import CONDITIONS, CaseValue, Record

UNITS_IN_NAMES = {"Mbit/s": "mbps", "bit/s": "bps", "B": "bytes", "%": "percent"}
UNITLESS = ("", "1", "fraction")
UNSTABLE = 0.1  # standard deviation, as a fraction of the mean, above which a metric is unstable


class SummaryRow(NamedTuple):
    """Mean and standard deviation (None with one seed) of one metric of one case over its seeds, in ``unit``."""

    case: CaseItems  # in the order of the records' keys
    metric: str
    unit: str
    mean: float
    deviation: float | None
    seeds: int
    repeats_deviation: float  # largest within a seed; 0 without repeats
    published: float | None = None  # what a paper prints for it, measured on the same data


def by_conditions(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """Group records by their conditions, across which nothing is ever averaged."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(str(getattr(record, name)) for name in CONDITIONS), []).append(record)
    return groups


def summarise(records: Iterable[Record]) -> list[SummaryRow]:
    """One row per case and metric, in order of appearance, for one experiment and one set of conditions."""
    records = list(records)
    order = dict.fromkeys(key for record in records for key in record.case)
    groups: dict[tuple[CaseItems, str, str], dict[int, list[float]]] = {}
    for record in records:
        case = tuple((key, record.case[key]) for key in order if key in record.case)
        key = (case, record.metric, record.unit)
        groups.setdefault(key, {}).setdefault(record.seed, []).append(record.value)
    return [_row(*key, list(by_seed.values())) for key, by_seed in groups.items()]


def _row(case: CaseItems, metric: str, unit: str, repeats: list[list[float]]) -> SummaryRow:
    means = [statistics.fmean(values) for values in repeats]
    deviation = (statistics.stdev(means) if len(set(means)) > 1 else 0.0) if len(means) > 1 else None
    within = max((statistics.stdev(values) for values in repeats if len(set(values)) > 1), default=0.0)
    return SummaryRow(case, metric, unit, statistics.fmean(means), deviation, len(means), within)


def header(metric: str, unit: str) -> str:
    """``metric``, with its unit in brackets unless its name carries that (``latency_s``, ``payload_bytes``)."""
    written = {unit.lower().replace("/", "_per_"), UNITS_IN_NAMES.get(unit, unit)}
    named = unit in (*UNITLESS, metric) or any(f"_{one}_" in f"_{metric}_" for one in written)
    return metric if named else f"{metric} [{unit}]"


def varying(cases: Sequence[CaseItems]) -> list[str]:
    """Keys whose values differ among ``cases``; all cases have the same keys."""
    keys = [key for key, _ in cases[0]]
    return [key for key in keys if len({value_text(dict(case)[key]) for case in cases}) > 1]


def unstable(rows: Iterable[SummaryRow]) -> list[str]:
    """Warnings for few seeds, and for each metric with a deviation above ``UNSTABLE`` of the mean, or a mean of 0."""
    warnings = []
    rows = list(rows)
    if few := sorted({row.seeds for row in rows if row.seeds < MIN_SEEDS}):
        seeds = " or ".join(str(count) for count in few)
        warnings.append(f"Measured with {seeds} seed{'s' if few[-1] > 1 else ''}: noise cannot be told from effect.")
    for metric in dict.fromkeys(row.metric for row in rows):
        group = [row for row in rows if row.metric == metric]
        worst = max(group, key=_spread)
        count = sum(_spread(row) > UNSTABLE for row in group)
        if count:
            size = f"{_spread(worst):.0%} of the mean"
            if not worst.mean:
                size = f"{number(worst.deviation or 0)} about a mean of 0"
            where = f" in {count} of {len(group)} cases, most with {label(worst.case)}" if len(group) > 1 else ""
            warnings.append(f"{metric} is unstable{where}: its standard deviation is {size}.")
    return warnings


def _spread(row: SummaryRow) -> float:
    """Larger standard deviation of that over seeds and that over repeats, as a fraction of the mean."""
    deviation = max(row.deviation or 0.0, row.repeats_deviation)
    if not deviation:
        return 0.0
    return deviation / abs(row.mean) if row.mean else math.inf


def same_for_all(cases: Sequence[dict[str, CaseValue]]) -> dict[str, CaseValue]:
    first = cases[0] if cases else {}
    return {key: value for key, value in first.items() if all(case.get(key) == value for case in cases)}
