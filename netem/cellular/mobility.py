"""Where is the UE, and which cell serves it? A closed polygon at constant speed, and handover by SNR."""

import math
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Position = tuple[float, float]  # metres east and north

SPEED_M_PER_S = 40 / 3.6  # HiveMind, section VII-A.2


class Trajectory(msgspec.Struct, frozen=True):
    """A closed way from corner to corner and back to the first, without end, at constant speed."""

    corners: tuple[Position, ...]
    speed_m_per_s: float = SPEED_M_PER_S

    @property
    def length_m(self) -> float:
        """Once round."""
        return sum(math.dist(one, other) for one, other in pairwise([*self.corners, self.corners[0]]))

    def positions(self, times_s: Floats) -> Floats:
        """[steps, 2] metres at ``times_s``."""
        corners = np.array([*self.corners, self.corners[0]])
        passed_m = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
        travelled_m = (times_s * self.speed_m_per_s) % passed_m[-1]
        return np.stack([np.interp(travelled_m, passed_m, corners[:, axis]) for axis in (0, 1)], axis=-1)


def distances(positions: Floats, sites: Floats) -> Floats:
    """[steps, sites] metres between [steps, 2] positions and [sites, 2] sites."""
    return np.asarray(np.hypot(*np.moveaxis(positions[:, None] - sites[None], -1, 0)))


def serving_cells(snr_db: Floats, hysteresis_db: float) -> NDArray[np.int64]:
    """The index of the serving cell at each of [steps, cells]: the first is the best, then the best takes over
    once it is more than ``hysteresis_db`` above the one that serves (event A3 of TS 38.331, without delay)."""
    best = snr_db.argmax(axis=1)
    best_db = snr_db.max(axis=1)
    serving = np.empty(len(snr_db), dtype=np.int64)
    cell = int(best[0])
    for step in range(len(snr_db)):
        if best_db[step] > snr_db[step, cell] + hysteresis_db:
            cell = int(best[step])
        serving[step] = cell
    return serving
