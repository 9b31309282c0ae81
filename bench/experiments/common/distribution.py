"""How is a distribution recorded? By its mean, its extreme and its quantiles, from which boxes and CDFs are drawn.

The quantiles that tables show have an interval of 95 %. Tasks that follow each other meet the same links: so whole
stretches of them are drawn anew (a block bootstrap), not single ones. What other networks of the same kind would give,
seeds say.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from bench.suite.experiment import Measurement
from reports.pages.tables import QUANTILES as SHOWN
from reports.record import CaseValue

QUANTILES = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
STRETCHES, DRAWS = 20, 200
INTERVAL = (0.025, 0.975)


def spread(metric: str, values: Sequence[float], unit: str, case: Mapping[str, CaseValue]) -> Iterator[Measurement]:
    """``metric``'s mean, ``_max``, and ``_quantile`` at each of ``QUANTILES`` (a key of the case).

    ``values`` are in order of time. Of the quantiles that are shown, ``_quantile_low`` and ``_quantile_high`` are the
    ends of the interval.
    """
    yield Measurement(metric, fmean(values), unit, case)
    yield Measurement(f"{metric}_max", max(values), unit, case)
    for quantile, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True):
        yield Measurement(f"{metric}_quantile", float(value), unit, {**case, "quantile": quantile})
    for quantile, ends in zip(SHOWN, intervals(values, SHOWN), strict=True):
        for side, end in zip(("low", "high"), ends, strict=True):
            yield Measurement(f"{metric}_quantile_{side}", end, unit, {**case, "quantile": quantile})


def intervals(values: Sequence[float], quantiles: Sequence[float]) -> list[tuple[float, float]]:
    """Between what of each of ``quantiles`` lies, with 95 %; the same for the same values."""
    length = -(-len(values) // STRETCHES)
    starts = len(values) - length + 1
    drawn = np.random.default_rng(0).integers(starts, size=(DRAWS, -(-len(values) // length), 1))
    samples = np.asarray(values)[drawn + np.arange(length)].reshape(DRAWS, -1)
    low, high = np.quantile(np.quantile(samples, quantiles, axis=1), INTERVAL, axis=1)
    return list(zip(low.tolist(), high.tolist(), strict=True))
