"""What do the other UEs send? A population on each link, each UE with a bit-rate that changes over time.

HiveMind (section VII-A.3) draws both after its [48], which it does not describe further. Ours are choices: a
link's population is fixed during a run; each UE's bit-rate is log-normal, and the correlation of its logarithm falls
to one half from one coherence time to the next. Mean and spread are calibrated, link by link, to the mean and
deviation of the target UE's bandwidth in Table I, at the middle load (``fit``); the two other loads follow.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from netem.cellular.scheduler import fair_airtime

Floats = NDArray[np.float64]
Load = Literal["low", "mid", "high"]

FACTORS: dict[Load, float] = {"low": 0.5, "mid": 1.0, "high": 2.0}  # of population and of bit-rate, so twice
KEEP = 0.5  # correlation of a bit-rate's logarithm between neighbouring coherence times
FIT_STEPS = 10_000
FIT_SEED = 0


class Background(msgspec.Struct, frozen=True):
    """``population`` UEs, each of ``bitrate_bps`` on average; ``spread``: deviation of its natural logarithm."""

    population: int
    bitrate_bps: float
    spread: float

    def at(self, load: Load) -> "Background":
        """Population and bit-rate both scaled. Raises ValueError where that leaves half a UE."""
        population = self.population * FACTORS[load]
        if population != int(population):
            raise ValueError(f"a population of {self.population} has no half")
        return Background(int(population), self.bitrate_bps * FACTORS[load], self.spread)

    def demands_bps(self, levels: Floats) -> Floats:
        """Bit-rates from standard normal ``levels``."""
        return self.bitrate_bps * np.exp(self.spread * levels - self.spread**2 / 2)


def levels(steps: int, users: int, rng: np.random.Generator) -> Floats:
    """[steps, users] standard normal, a first-order autoregression in time with coefficient ``KEEP``."""
    drawn = rng.standard_normal((steps, users))
    drawn[1:] *= np.sqrt(1 - KEEP**2)
    for step in range(1, steps):
        drawn[step] += KEEP * drawn[step - 1]
    return drawn


def fit(capacity_bps: float, population: int, mean_bps: float, std_bps: float) -> Background:
    """The background under which one more UE has this mean and deviation of bandwidth on such a link.

    Two nested bisections on one fixed set of draws: the mean falls with the bit-rate; at a given mean, the
    deviation grows with the spread. Exact for these draws if the table's pair can be reached.
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
