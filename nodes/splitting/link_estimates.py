"""A node's estimates of its incoming links: as reported to it, or as measured by transfers since.

The receiver measures alone: after a frame's first bytes the rest arrives at the link's rate, without the delay and
without the sender's clock. HiveMind takes the rate as known (section IV-F: from the base station); measuring it is
our addition. The estimate is the median of the last transfers: a few that were held up do not count, and a new rate
holds once more than half of them have seen it. Measurements expire, or a link that was slow once would never be
tried again.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import median

from nodes.spec.policy import LinkSpec, Policy
from nodes.splitting.search import transfer_s

MIN_BYTES = 4096  # smaller transfers measure the scheduling of the process rather than the link; our assumption

# Costs [L+1] of the incoming link at each boundary, from the time and the seconds until the next task.
CostEstimate = Callable[[float, float], Sequence[float]]


class LinkRate:
    """Rate by the median of the last ``transfers``, each forgotten after ``remember_s`` seconds."""

    def __init__(self, transfers: int, remember_s: float = inf) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=transfers)  # (time, bit/s)
        self._remember_s = remember_s

    def observe(self, wire_bytes: float, wire_s: float, now: float) -> None:
        """Add a transfer that ended at ``now``: ``wire_bytes`` after the first ones, received in ``wire_s``."""
        if wire_bytes >= MIN_BYTES and wire_s > 0:
            self._seen.append((now, 8 * wire_bytes / wire_s))

    def rate_bps(self, now: float) -> float | None:
        """The estimate in bit/s; None without measurements."""
        while self._seen and now - self._seen[0][0] > self._remember_s:
            self._seen.popleft()
        return median(rate for _, rate in self._seen) if self._seen else None


class LinkEstimates:
    """Estimates by upstream neighbour. ``boundary_bytes`` [L+1] cross the link at each boundary."""

    def __init__(self, boundary_bytes: Sequence[int], told: Mapping[str, LinkSpec], policy: Policy) -> None:
        self._boundary_bytes, self._policy = boundary_bytes, policy
        self._told = dict(told)
        self._measured: dict[str, LinkRate] = {}

    def __call__(self, upper: str) -> CostEstimate:
        """The estimate of the link from ``upper``, which follows later reports and transfers. Raises KeyError."""
        self._told[upper]

        def costs(now: float, ahead_s: float) -> list[float]:
            link = self.link(upper, now)
            return transfer_s(self._boundary_bytes, inf if link.rate_bps is None else link.rate_bps, link.delay_s)

        return costs

    def link(self, upper: str, now: float) -> LinkSpec:
        """The link from ``upper`` as reported, with the rate measured since, if any."""
        told = self._told[upper]
        measured_bps = self._measured[upper].rate_bps(now) if upper in self._measured else None
        return LinkSpec(rate_bps=measured_bps or told.rate_bps, delay_s=told.delay_s)

    def set_link(self, upper: str, link: LinkSpec) -> None:
        """Set the link from ``upper`` as reported; earlier measurements are dropped."""
        self._told[upper] = link
        self._measured.pop(upper, None)

    def observe(self, upper: str, wire_bytes: float, wire_s: float, now: float) -> None:
        """Add a transfer (see ``LinkRate.observe``), if the policy measures rates."""
        if self._policy.rate_transfers:
            remember_s = inf if self._policy.remember_s is None else self._policy.remember_s
            rate = self._measured.setdefault(upper, LinkRate(self._policy.rate_transfers, remember_s))
            rate.observe(wire_bytes, wire_s, now)
