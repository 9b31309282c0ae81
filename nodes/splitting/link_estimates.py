"""A node's estimates of its incoming links: as reported to it, or as measured by transfers since."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from nodes.spec.policy import LinkSpec, Policy
from nodes.splitting.link_rate import LinkRate
from nodes.splitting.search import transfer_s

# Costs [L+1] of the incoming link at each boundary, from the time and the seconds until the next task.
CostEstimate = Callable[[float, float], Sequence[float]]


def constant_estimate(boundary_bytes: Sequence[float], rate_bps: float | None, delay_s: float) -> CostEstimate:
    """The estimate of a link that never changes, by ``transfer_s``; ``rate_bps`` None is unlimited."""
    costs = transfer_s(boundary_bytes, inf if rate_bps is None else rate_bps, delay_s)
    return lambda now, ahead_s: costs


class LinkEstimates:
    """Estimates by upstream neighbour. ``boundary_bytes`` [L+1] cross the link at each boundary."""

    def __init__(self, boundary_bytes: Sequence[int], told: Mapping[str, LinkSpec], policy: Policy) -> None:
        self._boundary_bytes, self._policy = boundary_bytes, policy
        self._told = dict(told)
        self._measured: dict[str, LinkRate] = {}

    def __call__(self, upper: str) -> CostEstimate:
        """The estimate of the link from ``upper``, which follows later reports and transfers. Raises KeyError."""
        self._told[upper]
        return lambda now, ahead_s: self._estimate(upper, now)(now, ahead_s)

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

    def _estimate(self, upper: str, now: float) -> CostEstimate:
        link = self.link(upper, now)
        return constant_estimate(self._boundary_bytes, link.rate_bps, link.delay_s)
