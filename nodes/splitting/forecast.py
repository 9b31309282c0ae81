"""Forecast of a link's rate at the time when the next task uses it.

HiveMind, section IV-F: split costs are computed at t1 and used at t2. A node takes the mean gap of its last g tasks
as the next one's, and Eq. 10 (``search.transfer_s``) gives the transfer at the rate that is forecast for then. The
paper brings no forecast: its simulation takes the true rate, or draws around it.
"""

from collections import deque
from collections.abc import Callable

import torch


class LookAhead:
    """Estimate of the gap from a node's split-cost update to the task: the mean of the last ``tasks`` gaps."""

    def __init__(self, tasks: int) -> None:
        self._gaps_s: deque[float] = deque(maxlen=tasks)

    def observe(self, updated_s: float, began_s: float) -> None:
        """Add a task that began at ``began_s`` with the costs computed at ``updated_s``."""
        self._gaps_s.append(began_s - updated_s)

    @property
    def gap_s(self) -> float:
        """The estimate in seconds; 0 before the first task, which gives the present rate."""
        return sum(self._gaps_s) / len(self._gaps_s) if self._gaps_s else 0.0


def forecast_bps(
    rate_bps: Callable[[float], float],
    now_s: float,
    gap_s: float,
    *,
    coherence_s: float = 0.0,
    error: float = 0.0,
    generator: torch.Generator | None = None,
) -> float:
    """The rate in bit/s for the costs of a task ``gap_s`` after ``now_s`` (HiveMind, section IV-F).

    ``rate_bps`` is the true rate by time in seconds. Below ``coherence_s``, the link's coherence time, the paper takes
    the present rate: one that lasts longer than the gap were the same at its end. But the gap may begin anywhere in
    that time, and by section VII-C2 prediction gains most at a coherence of about the gap (50 ms) and fails where the
    rule enables it (10 ms); so the rule is the caller's choice, and 0 always predicts. ``error`` is the forecast's
    relative standard deviation (section VII-C3), drawn from ``generator``; it is at least 1 bit/s (assumed).
    """
    if gap_s < coherence_s:
        return rate_bps(now_s)
    ahead_bps = rate_bps(now_s + gap_s)
    if not error:
        return ahead_bps
    return max(1.0, ahead_bps * (1 + error * float(torch.randn((), dtype=torch.float64, generator=generator))))
