"""Energy counters: the processor's own (RAPL) where it can be read, else a constant power. Read as a clock is."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

JouleCounter = Callable[[], float]  # joules since an arbitrary start
POWERCAP = Path("/sys/class/powercap")


def constant_power(power_w: float, clock: Callable[[], float]) -> JouleCounter:
    """The counter of a machine that always draws ``power_w``."""
    return lambda: power_w * clock()


def rapl_counter(root: Path = POWERCAP) -> JouleCounter | None:
    """The counter of all processor packages (Linux powercap, RAPL); None where none is readable.

    The kernel's counters wrap around, after minutes at the earliest: read more often than that.
    """
    try:
        paths = sorted(root.glob("intel-rapl:*"))
        zones = [_Zone(path) for path in paths if re.fullmatch(r"intel-rapl:\d+", path.name)]
    except (OSError, ValueError):
        return None
    return (lambda: sum(zone.joules() for zone in zones)) if zones else None


class _Zone:
    """One package's counter, without its wrap-arounds."""

    def __init__(self, path: Path) -> None:
        self._counter = path / "energy_uj"
        self._range_uj = int((path / "max_energy_range_uj").read_text())
        self._last_uj = int(self._counter.read_text())
        self._total_uj = 0

    def joules(self) -> float:
        now_uj = int(self._counter.read_text())
        self._total_uj += (now_uj - self._last_uj) % (self._range_uj + 1)
        self._last_uj = now_uj
        return self._total_uj / 1e6


class Radio(NamedTuple):
    """Power of a 5G radio while it sends or receives: linear in the rate."""

    base_w: float
    w_per_bps: float

    def transfer_j(self, n_bytes: float, rate_bps: float) -> float:
        return 8 * n_bytes * (self.base_w / rate_bps + self.w_per_bps)
