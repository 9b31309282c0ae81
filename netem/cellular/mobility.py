"""UE mobility on a closed polygon at constant speed, and handover between cells by SNR."""

import math
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Position = tuple[float, float]  # metres east and north

SPEED_M_PER_S = 40 / 3.6  # HiveMind, section VII-A.2


class Trajectory(msgspec.Struct, frozen=True):
    """Endless movement around a closed polygon, from its first corner, at constant speed."""

    corners: tuple[Position, ...]
    speed_m_per_s: float = SPEED_M_PER_S

    @property
    def length_m(self) -> float:
        return sum(math.dist(start, end) for start, end in pairwise([*self.corners, self.corners[0]]))

    def positions(self, times_s: Floats) -> Floats:
        """Positions at ``times_s``: [steps, 2] metres."""
        corners = np.array([*self.corners, self.corners[0]])
        corners_m = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
        travelled_m = (times_s * self.speed_m_per_s) % corners_m[-1]
        return np.stack([np.interp(travelled_m, corners_m, corners[:, axis]) for axis in (0, 1)], axis=-1)


def distances(positions: Floats, sites: Floats) -> Floats:
    """Distances of [steps, 2] positions from [sites, 2] sites: [steps, sites] metres."""
    return np.asarray(np.hypot(*np.moveaxis(positions[:, None] - sites[None], -1, 0)))


def serving_cells(snr_db: Floats, hysteresis_db: float) -> NDArray[np.int64]:
    """Index of the serving cell at each step of [steps, cells] SNR values.

    The UE attaches to the best cell, then hands over once the best exceeds the serving cell by more than
    ``hysteresis_db`` (event A3 of TS 38.331, without delay).
    """
    best = snr_db.argmax(axis=1)
    best_db = snr_db.max(axis=1)
    serving = np.empty(len(snr_db), dtype=np.int64)
    cell = int(best[0])
    for step in range(len(snr_db)):
        if best_db[step] > snr_db[step, cell] + hysteresis_db:
            cell = int(best[step])
        serving[step] = cell
    return serving
