"""How is a distribution recorded? By its mean, its extreme and its quantiles, from which boxes and CDFs are drawn."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from bench.experiment import Measurement
from reports.record import CaseValue

QUANTILES = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)


def spread(metric: str, values: Sequence[float], unit: str, case: Mapping[str, CaseValue]) -> Iterator[Measurement]:
    """``metric``'s mean, ``_max``, and ``_quantile`` at each of ``QUANTILES`` (a key of the case)."""
    yield Measurement(metric, fmean(values), unit, case)
    yield Measurement(f"{metric}_max", max(values), unit, case)
    for quantile, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True):
        yield Measurement(f"{metric}_quantile", float(value), unit, {**case, "quantile": quantile})
