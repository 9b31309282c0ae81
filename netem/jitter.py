"""Quantile functions of the four jitter distributions that tc ships for netem.

The unit is a profile's ``jitter_s``, as in tc's tables: normal has standard deviation 1; uniform covers -1 to 1;
pareto has shape 3, less its mean, times 4/3; paretonormal is a quarter of normal plus three quarters of pareto. All
are cut at 4, where netem's 16 bits end, which reduces the mean of the pareto ones by 0.03.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

Distribution = Literal["normal", "uniform", "pareto", "paretonormal"]

CUT = 4.0
_MIN_U = 2.0**-53  # the normal's quantiles at 0 and 1 are infinite


def _normal(u: float) -> float:
    return NormalDist().inv_cdf(min(max(u, _MIN_U), 1 - _MIN_U))


def _pareto(u: float) -> float:
    return min(CUT, 4 / 3 * (math.pow(max(1 - u, _MIN_U), -1 / 3) - 1.5))


_QUANTILES: dict[Distribution, Callable[[float], float]] = {
    "normal": _normal,
    "uniform": lambda u: 2 * u - 1,
    "pareto": _pareto,
    "paretonormal": lambda u: _normal(u) / 4 + 3 * _pareto(u) / 4,
}


def quantile(distribution: Distribution, u: float) -> float:
    """Quantile ``u``, in [0, 1], of ``distribution``: between -4 and 4, in units of ``jitter_s``."""
    return max(-CUT, min(CUT, _QUANTILES[distribution](u)))
