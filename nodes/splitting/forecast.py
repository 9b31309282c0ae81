"""What will a link carry when the task comes to it, and how far ahead is that?

HiveMind, section IV-F: split costs are worked out at t1 and used at t2. A node takes the mean gap of its last g
tasks for the next one's, asks a forecast for its link's rate then, and Eq. 10 (``split_search.transfer_s``) for
the transfer. The forecast itself is not the paper's: its simulation takes the true rate, or draws around it.
"""

from collections import deque
from collections.abc import Callable

import torch


class LookAhead:
    """A node's estimate of the gap from its split-cost update to the task: the mean of the last ``tasks`` gaps."""

    def __init__(self, tasks: int) -> None:
        self._gaps_s: deque[float] = deque(maxlen=tasks)

    def observe(self, updated_s: float, began_s: float) -> None:
        """A task came at ``began_s`` that went by the costs of ``updated_s``."""
        self._gaps_s.append(began_s - updated_s)

    @property
    def gap_s(self) -> float:
        """The estimate; 0 before the first task, so that the present rate is taken."""
        return sum(self._gaps_s) / len(self._gaps_s) if self._gaps_s else 0.0


def should_predict(gap_s: float, coherence_s: float) -> bool:
    """Whether to predict at all, by the rule of section IV-F: not if the gap is below the link's coherence time.

    A rate that lasts longer than the gap would be the same at its end, says the paper. But the gap may begin
    anywhere in that time, and section VII-C2 then shows prediction at its best just there (coherence 50 ms, gap
    about as long) and failing where the rule would have it on (10 ms). So the rule is the caller's choice.
    """
    return gap_s >= coherence_s


def forecast_bps(
    rate_bps: Callable[[float], float],
    now_s: float,
    gap_s: float,
    *,
    coherence_s: float = 0.0,
    error: float = 0.0,
    generator: torch.Generator | None = None,
) -> float:
    """The rate on which to base the costs of a task that comes ``gap_s`` after ``now_s``.

    ``rate_bps`` tells the true rate at a time. ``coherence_s`` applies the rule of ``should_predict``; 0 predicts
    always. ``error`` is the forecast's relative standard deviation (section VII-C3), drawn from ``generator``
    if it is not 0; what is known, the present rate, has none.
    """
    if not should_predict(gap_s, coherence_s):
        return rate_bps(now_s)
    return noisy_forecast_bps(rate_bps(now_s + gap_s), error, generator)


def noisy_forecast_bps(rate_bps: float, error: float, generator: torch.Generator | None) -> float:
    """``rate_bps`` as a forecast with a normal error of standard deviation ``error`` * ``rate_bps`` tells it.

    A normal error may leave nothing or less of the rate: 1 bit/s is the least returned (our assumption; the paper
    says that some are extremely small).
    """
    if not error:
        return rate_bps
    return max(1.0, rate_bps * (1 + error * float(torch.randn((), dtype=torch.float64, generator=generator))))
