"""Records of a distribution: mean, maximum and quantiles, from which boxes and CDFs are drawn.

The quantiles that tables show get a 95 % confidence interval by a block bootstrap, since consecutive tasks meet the
same links. It covers the tasks of one network; the spread over networks of the same kind comes from seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from bench.suite.experiment import Measurement
from reports.pages.tables import QUANTILES as SHOWN
from reports.record import CaseValue

QUANTILES = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
BLOCKS, DRAWS = 20, 200
INTERVAL = (0.025, 0.975)


def spread(metric: str, values: Sequence[float], unit: str, case: Mapping[str, CaseValue]) -> Iterator[Measurement]:
    """Mean, ``_max``, ``_quantile`` at ``QUANTILES``, and intervals of those shown, of ``values`` in order of time."""
    yield Measurement(metric, fmean(values), unit, case)
    yield Measurement(f"{metric}_max", max(values), unit, case)
    for quantile, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True):
        yield Measurement(f"{metric}_quantile", float(value), unit, {**case, "quantile": quantile})
    for quantile, ends in zip(SHOWN, intervals(values, SHOWN), strict=True):
        for side, end in zip(("low", "high"), ends, strict=True):
            yield Measurement(f"{metric}_quantile_{side}", end, unit, {**case, "quantile": quantile})


def intervals(values: Sequence[float], quantiles: Sequence[float]) -> list[tuple[float, float]]:
    """The 95 % confidence interval of each of ``quantiles``; deterministic."""
    length = -(-len(values) // BLOCKS)
    starts = len(values) - length + 1
    drawn = np.random.default_rng(0).integers(starts, size=(DRAWS, -(-len(values) // length), 1))
    samples = np.asarray(values)[drawn + np.arange(length)].reshape(DRAWS, -1)
    low, high = np.quantile(np.quantile(samples, quantiles, axis=1), INTERVAL, axis=1)
    return list(zip(low.tolist(), high.tolist(), strict=True))
