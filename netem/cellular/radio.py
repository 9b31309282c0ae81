"""Rate of a 5G radio link by distance: Friis path loss, then SNR to CQI to MCS to rate.

HiveMind (section VII-A.2) uses Friis' free-space model with an EIRP of 40 dBm and maps SNR to rate by the tables of
TS 38.214. Carriers, bandwidths and what the tables leave open are choices, listed in ``docs/cellular.md``. All
functions accept numbers or arrays.
"""

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LIGHT_M_PER_S = 299_792_458.0
THERMAL_DBM_PER_HZ = -174.0  # at 290 K
MIN_DISTANCE_M = 1.0  # Friis holds in the far field only
GAP_DB = 3.0  # SNR gap of a real code to Shannon; TS 38.214 gives efficiencies, not thresholds

# (bits per symbol, code rate x 1024), by index
CQI = [  # TS 38.214, table 5.2.2.1-2, CQI 1 to 15
    *[(2, 78), (2, 120), (2, 193), (2, 308), (2, 449), (2, 602)],
    *[(4, 378), (4, 490), (4, 616)],
    *[(6, 466), (6, 567), (6, 666), (6, 772), (6, 873), (6, 948)],
]
MCS = [  # TS 38.214, table 5.1.3.1-1, MCS 0 to 28; also that of the uplink (6.1.4.1)
    *[(2, 120), (2, 157), (2, 193), (2, 251), (2, 308), (2, 379), (2, 449), (2, 526), (2, 602), (2, 679)],
    *[(4, 340), (4, 378), (4, 434), (4, 490), (4, 553), (4, 616), (4, 658)],
    *[(6, 438), (6, 466), (6, 517), (6, 567), (6, 616), (6, 666), (6, 719), (6, 772), (6, 822), (6, 873)],
    *[(6, 910), (6, 948)],
]
CQI_EFFICIENCY = np.array([0.0, *[bits * rate / 1024 for bits, rate in CQI]])  # from CQI 0, out of range
MCS_EFFICIENCY = np.array([bits * rate / 1024 for bits, rate in MCS])


class Carrier(msgspec.Struct, frozen=True, kw_only=True):
    """A carrier of ``blocks`` resource blocks of 12 subcarriers; ``uplink_share`` of its slots is uplink."""

    frequency_hz: float
    blocks: int
    spacing_hz: float
    overhead: float  # of the resource elements, TS 38.306's OH
    uplink_share: float
    eirp_dbm: float = 40.0
    noise_figure_db: float = 7.0

    @property
    def noise_dbm(self) -> float:
        """Thermal noise in the occupied bandwidth, plus the receiver's noise figure."""
        return THERMAL_DBM_PER_HZ + 10 * math.log10(12 * self.spacing_hz * self.blocks) + self.noise_figure_db

    def snr_db(self, distance_m: ArrayLike) -> Floats:
        """The signal-to-noise ratio at ``distance_m``, with a receiver antenna of 0 dBi."""
        return np.asarray(self.eirp_dbm - path_loss_db(distance_m, self.frequency_hz) - self.noise_dbm)

    def rate_bps(self, distance_m: ArrayLike) -> Floats:
        """Rate at ``distance_m`` in bits per second; 0 out of range."""
        chosen = mcs(cqi(self.snr_db(distance_m)))
        efficiency = np.where(chosen < 0, 0.0, MCS_EFFICIENCY[chosen])
        return self.uplink_share * data_rate_bps(efficiency, self.blocks, self.spacing_hz, self.overhead)


def path_loss_db(distance_m: ArrayLike, frequency_hz: float) -> Floats:
    """Free-space loss between isotropic antennas: 20 log10(4 pi d f / c)."""
    distance = np.maximum(np.asarray(distance_m, dtype=np.float64), MIN_DISTANCE_M)
    return np.asarray(20 * np.log10(4 * math.pi * distance * frequency_hz / LIGHT_M_PER_S))


def cqi(snr_db: ArrayLike) -> NDArray[np.int64]:
    """Highest CQI with an efficiency that Shannon's formula allows at ``GAP_DB`` below this SNR; 0 if none."""
    snr = 10 ** ((np.asarray(snr_db, dtype=np.float64) - GAP_DB) / 10)
    return np.searchsorted(CQI_EFFICIENCY, np.log2(1 + snr), side="right") - 1


def mcs(index: ArrayLike) -> NDArray[np.int64]:
    """Highest MCS at most as efficient as CQI ``index``; CQI 1 maps to MCS 0, CQI 0 to none (-1)."""
    chosen = np.searchsorted(MCS_EFFICIENCY, CQI_EFFICIENCY[np.asarray(index)] + 1e-9, side="right") - 1
    return np.where(np.asarray(index) == 0, -1, np.maximum(chosen, 0))


def data_rate_bps(efficiency: ArrayLike, blocks: int, spacing_hz: float, overhead: float, layers: int = 1) -> Floats:
    """TS 38.306, section 4.1.2, for one carrier: ``efficiency`` is bits per symbol times code rate."""
    symbols_per_s = 14 * 1000 * spacing_hz / 15e3
    return np.asarray(layers * np.asarray(efficiency) * 12 * blocks * symbols_per_s * (1 - overhead))


# The uplink share is calibrated: with it the highest MCS gives the capacity of Table I's wireless links.
MMWAVE = Carrier(frequency_hz=28e9, blocks=132, spacing_hz=120e3, overhead=0.10, uplink_share=0.2255)
SUB6 = Carrier(frequency_hz=3.5e9, blocks=106, spacing_hz=30e3, overhead=0.08, uplink_share=0.2747)
