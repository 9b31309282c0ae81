"""Linear and logarithmic axes: from values to pixels, with round ticks."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

LOG_AXIS_RATIO = 30.0  # largest over smallest value from which an axis is logarithmic
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
KIBI = 1024.0
BINARY_PREFIXES = ("", "Ki", "Mi", "Gi")  # of powers of two
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Scale(NamedTuple):
    """Maps ``low`` to the pixel ``start`` and ``high`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of ``value``; one outside goes to the nearer end."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(value) if self.log and value > 0 else low if self.log else value
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        return _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most)


def scale(values: Iterable[float], start: float, end: float, *, log: bool, zero: bool = False) -> Scale:
    """A scale that shows all ``values`` with some room; ``zero``: from zero, as bars need."""
    found = [value for value in values if value > 0 or not log]
    low, high = min(found), max(found)
    if log:
        room = (high / low) ** 0.05 if high > low else 2.0
        return Scale(low / room, high * room, start, end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    room = 0.06 * (high - low)
    return Scale(low if zero and low == 0 else low - room, high if zero and high == 0 else high + room, start, end)


def wants_log(values: Sequence[float]) -> bool:
    """Whether ``values`` are positive and of so different magnitudes that a linear axis hides the small ones."""
    return min(values) > 0 and max(values) > LOG_AXIS_RATIO * min(values)


def _ticks(low: float, high: float, most: int) -> list[float]:
    magnitude = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (magnitude * step for step in (*STEPS, 20.0, 50.0)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [index * step for index in range(first, last + 1)]
    return [low, high]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 5)):
        found = [factor * 10.0**decade for decade in decades if decade % every == 0 for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            return found if len(found) > 1 else _ticks(low, high, most)
    return [low, high]


def tick_text(value: float) -> str:
    """``250``, ``20k``, ``64Ki``, ``0.05``, ``1e-5``."""
    if not value:
        return "0"
    if value >= 2 * KIBI and math.log2(value).is_integer():
        power = min(int(math.log(value, KIBI)), len(BINARY_PREFIXES) - 1)
        return f"{value / KIBI**power:.0f}{BINARY_PREFIXES[power]}"
    for factor, prefix in PREFIXES if abs(value) >= 1e4 else ():
        if abs(value) >= factor:
            return f"{value / factor:.6g}{prefix}"
    return f"{value:.6g}" if abs(value) >= 1e-3 else f"{value:.3g}".replace("e-0", "e-")
