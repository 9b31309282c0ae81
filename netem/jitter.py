"""How is jitter distributed? The four distributions that tc ships for netem, as quantile functions. Pure.

In units of a profile's ``jitter_s``, as tc's tables are: normal has standard deviation 1; uniform lies between
-1 and 1; pareto has shape 3, its mean taken off, times 4/3; paretonormal is a quarter of normal and three
quarters of pareto. All are cut at 4, where netem's 16 bits end; the pareto ones lose 0.03 of their mean by that.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

Distribution = Literal["normal", "uniform", "pareto", "paretonormal"]

CUT = 4.0
_LEAST = 2.0**-53  # the normal's quantiles are finite between 0 and 1 only


def _normal(u: float) -> float:
    return NormalDist().inv_cdf(min(max(u, _LEAST), 1 - _LEAST))


def _uniform(u: float) -> float:
    return 2 * u - 1


def _pareto(u: float) -> float:
    return min(CUT, 4 / 3 * (math.pow(max(1 - u, _LEAST), -1 / 3) - 1.5))


def _paretonormal(u: float) -> float:
    return _normal(u) / 4 + 3 * _pareto(u) / 4


_QUANTILES: dict[Distribution, Callable[[float], float]] = {
    "normal": _normal,
    "uniform": _uniform,
    "pareto": _pareto,
    "paretonormal": _paretonormal,
}


def quantile(distribution: Distribution, u: float) -> float:
    """What a share ``u`` of all draws lies below, in units of ``jitter_s``, between -4 and 4."""
    return max(-CUT, min(CUT, _QUANTILES[distribution](u)))
