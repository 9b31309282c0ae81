"""Background traffic: a population of UEs on each link, with bit rates that change over time.

HiveMind (section VII-A.3) takes both from its [48] and describes them no further. Choices made here: a link's
population is fixed during a run; a UE's bit rate is log-normal, and the correlation of its logarithm halves from one
coherence time to the next. At the middle load, mean and spread are calibrated per link to the mean and standard
deviation of the UE's bandwidth in Table I (``fit``); the two other loads scale them.

In every slot, a proportional-fair scheduler serves the user with the highest ratio of rate to past throughput
(HiveMind's [57]). While rates and demands are constant, as in a coherence time, this converges to the maximum of the
sum of log throughputs: equal shares of airtime, less for users with a smaller demand (``fair_airtime``). On a wired
link, where all users have the same rate, the formula is max-min fairness.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Load = Literal["low", "mid", "high"]

FACTORS: dict[Load, float] = {"low": 0.5, "mid": 1.0, "high": 2.0}  # of the population and of each bit rate
CORRELATION = 0.5  # of a bit rate's logarithm between successive coherence times
FIT_STEPS = 10_000
FIT_SEED = 0


class Background(msgspec.Struct, frozen=True):
    """``population`` UEs of mean ``bitrate_bps``; ``spread`` is the standard deviation of its natural logarithm."""

    population: int
    bitrate_bps: float
    spread: float

    def at(self, load: Load) -> "Background":
        """Scale population and bit rate to ``load``. Raises ValueError if the population is then not whole."""
        population = self.population * FACTORS[load]
        if population != int(population):
            given = f"{self.population} times {FACTORS[load]}"
            raise ValueError(f"load {load}: a population of {given} is not a whole number")
        return Background(int(population), self.bitrate_bps * FACTORS[load], self.spread)

    def demands_bps(self, levels: Floats) -> Floats:
        """Bit rates from standard normal ``levels``."""
        return self.bitrate_bps * np.exp(self.spread * levels - self.spread**2 / 2)


def levels(steps: int, users: int, rng: np.random.Generator) -> Floats:
    """Standard normal first-order autoregression in time with coefficient ``CORRELATION``: [steps, users]."""
    drawn = rng.standard_normal((steps, users))
    drawn[1:] *= np.sqrt(1 - CORRELATION**2)
    correlated: Floats = lfilter([1.0], [1.0, -CORRELATION], drawn, axis=0)
    return correlated


def fair_airtime(demands: Floats) -> Floats:
    """Airtime share of one additional user with a full buffer: [..., users] to [...].

    ``demands`` are the airtime shares that the other users need: demand over rate. The share w solves
    sum(min(demand, w)) + w = 1. If the k smallest demands are met in full, it is (1 - their sum) / (users - k + 1); a
    wrong k gives a smaller value, so the maximum over k is the solution.
    """
    users = demands.shape[-1]
    met = np.zeros((*demands.shape[:-1], users + 1))
    np.cumsum(np.sort(demands, axis=-1), axis=-1, out=met[..., 1:])
    share: Floats = ((1 - met) / np.arange(users + 1, 0, -1)).max(axis=-1)
    return share


def fit(capacity_bps: float, population: int, mean_bps: float, std_bps: float) -> Background:
    """Background traffic that leaves one additional UE this mean and standard deviation of bandwidth.

    Two nested bisections on a fixed set of draws: the mean falls with the bit rate; at a given mean, the deviation
    grows with the spread. Exact for these draws if the pair is attainable.
    """
    drawn = np.random.default_rng(FIT_SEED).standard_normal((FIT_STEPS, population))

    def bandwidth(background: Background) -> Floats:
        return capacity_bps * fair_airtime(background.demands_bps(drawn) / capacity_bps)

    def with_mean(spread: float) -> Background:
        low, high = 0.0, 4 * capacity_bps / population
        for _ in range(22):
            middle = Background(population, (low + high) / 2, spread)
            low, high = (middle.bitrate_bps, high) if bandwidth(middle).mean() > mean_bps else (low, middle.bitrate_bps)
        return Background(population, (low + high) / 2, spread)

    narrow, wide = 0.01, 2.0
    for _ in range(12):
        spread = (narrow + wide) / 2
        narrow, wide = (spread, wide) if bandwidth(with_mean(spread)).std() < std_bps else (narrow, spread)
    return with_mean((narrow + wide) / 2)
