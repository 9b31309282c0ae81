"""Estimate of a link's rate from transfers over it. Pure: sizes and times are given.

The receiver measures alone: after a frame's first segment the rest arrives at the link's rate, without the delay and
without the sender's clock. HiveMind takes the rate as known (section IV-F: from the base station); measuring it is
our addition. The estimate is the median of the last transfers: a few that were held up do not count, and a new rate
holds once more than half of them have seen it. Measurements expire, or a link that was slow once would never be
tried again.
"""

from collections import deque
from math import inf
from statistics import median

MIN_BYTES = 4096  # smaller transfers measure the scheduling of the process rather than the link; our assumption


class LinkRate:
    """Rate by the median of the last ``transfers``, each forgotten after ``remember_s`` seconds."""

    def __init__(self, transfers: int, remember_s: float = inf) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=transfers)  # (time, bit/s)
        self._remember_s = remember_s

    def observe(self, wire_bytes: float, wire_s: float, now: float) -> None:
        """Add a transfer that ended at ``now``: ``wire_bytes`` after the first segment, received in ``wire_s``."""
        if wire_bytes >= MIN_BYTES and wire_s > 0:
            self._seen.append((now, 8 * wire_bytes / wire_s))

    def rate_bps(self, now: float) -> float | None:
        """The estimate in bit/s; None without measurements."""
        while self._seen and now - self._seen[0][0] > self._remember_s:
            self._seen.popleft()
        return median(rate for _, rate in self._seen) if self._seen else None
