"""How much energy does work take? Counters of joules: the processor's own where it can be read, else a power model.

A counter is asked before and after the work, as a clock is.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

JouleCounter = Callable[[], float]  # joules since some moment
POWERCAP = Path("/sys/class/powercap")


def constant_power(power_w: float, clock: Callable[[], float]) -> JouleCounter:
    """Energy is time times power: for a machine whose counter cannot be read."""
    return lambda: power_w * clock()


def rapl_counter(root: Path = POWERCAP) -> JouleCounter | None:
    """The counter of all processor packages (Linux powercap, RAPL); None where there is none that may be read.

    The kernel's counters return to zero at their maximum: ask more often than that, in minutes at the least.
    """
    try:
        zones = [
            _Zone(path) for path in sorted(root.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+", path.name)
        ]
    except (OSError, ValueError):
        return None
    return (lambda: sum(zone.joules() for zone in zones)) if zones else None


class _Zone:
    """One package's counter, with its returns to zero made good."""

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
    """What a 5G radio draws while it sends or receives at a rate: power rises linearly, energy per bit falls."""

    base_w: float
    w_per_bps: float

    def transfer_j(self, n_bytes: float, rate_bps: float) -> float:
        """Joules to move ``n_bytes`` at ``rate_bps``."""
        return 8 * n_bytes * (self.base_w / rate_bps + self.w_per_bps)
