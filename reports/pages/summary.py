"""What did each case measure, and how steadily? A row for every case and metric, over seeds and repeats."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from reports.claims.statistics import CONDITIONS, CaseItems
from reports.formatting import label, number, value_text
from reports.record import CaseValue, Record

FEW_SEEDS = 3  # below this many a spread says little
UNSTABLE = 0.1  # of the mean: a larger standard deviation is warned of


class SummaryRow(NamedTuple):
    """One metric of one case over its seeds: mean and standard deviation (None: one seed), in ``unit``."""

    case: CaseItems  # in the order in which the experiment names its keys
    metric: str
    unit: str
    mean: float
    deviation: float | None
    seeds: int
    repeats_deviation: float  # the largest of a seed's repeats; 0 without repeats


def by_conditions(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """The records apart by the conditions they were measured under; nothing is ever averaged across these."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(str(getattr(record, name)) for name in CONDITIONS), []).append(record)
    return groups


def summarise(records: Iterable[Record]) -> list[SummaryRow]:
    """A row for every case and metric, as they appear, of one experiment and one set of conditions."""
    records = list(records)
    order = dict.fromkeys(key for record in records for key in record.case)
    groups: dict[tuple[CaseItems, str, str], dict[int, list[float]]] = {}
    for record in records:
        case = tuple((key, record.case[key]) for key in order if key in record.case)
        key = (case, record.metric, record.unit)
        groups.setdefault(key, {}).setdefault(record.seed, []).append(record.value)
    return [_row(*key, list(by_seed.values())) for key, by_seed in groups.items()]


def _row(case: CaseItems, metric: str, unit: str, repeats: list[list[float]]) -> SummaryRow:
    values = [statistics.fmean(one) for one in repeats]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    within = max((statistics.stdev(one) for one in repeats if len(one) > 1), default=0.0)
    return SummaryRow(case, metric, unit, statistics.fmean(values), deviation, len(values), within)


def header(metric: str, unit: str) -> str:
    """``latency_s`` says its unit; ``accuracy`` of a unit gets it in brackets."""
    said = unit in ("", "1", metric) or metric.endswith(f"_{unit}")
    return metric if said else f"{metric} [{unit}]"


def varying(cases: Sequence[CaseItems]) -> list[str]:
    """The keys whose values differ among ``cases``, all of which have the same keys."""
    keys = [key for key, _ in cases[0]]
    return [key for key in keys if len({value_text(dict(case)[key]) for case in cases}) > 1]


def unstable(rows: Iterable[SummaryRow]) -> list[str]:
    """One sentence for few seeds, one a metric whose seeds or repeats spread over ``UNSTABLE`` of the mean.

    A case whose mean is 0 counts as spread where its seeds differ at all.
    """
    found = []
    by_metric: dict[str, list[SummaryRow]] = {}
    rows = list(rows)
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    if few := sorted({row.seeds for row in rows if row.seeds < FEW_SEEDS}):
        seeds = " or ".join(str(count) for count in few)
        found.append(f"Measured with {seeds} seed{'s' if few[-1] > 1 else ''}: noise cannot be told from effect.")
    for metric, group in by_metric.items():
        worst = max(group, key=_spread)
        count = sum(_spread(row) > UNSTABLE for row in group)
        if count:
            size = (
                f"{_spread(worst):.0%} of the mean"
                if worst.mean
                else f"{number(worst.deviation or 0)} about a mean of 0"
            )
            where = f" in {count} of {len(group)} cases, most with {label(worst.case)}" if len(group) > 1 else ""
            found.append(f"`{metric}` is unstable{where}: its standard deviation is {size}.")
    return found


def _spread(row: SummaryRow) -> float:
    """Standard deviation over seeds or, if larger, over a seed's repeats, as a fraction of the mean."""
    deviation = max(row.deviation or 0.0, row.repeats_deviation)
    if not deviation:
        return 0.0
    return deviation / abs(row.mean) if row.mean else math.inf


def same_for_all(cases: Sequence[dict[str, CaseValue]]) -> dict[str, CaseValue]:
    """What all cases have in common, to be said once above a table."""
    first = cases[0] if cases else {}
    return {key: value for key, value in first.items() if all(case.get(key) == value for case in cases)}
