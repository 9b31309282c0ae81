"""Policy of split updates, and the properties of a link as reported to a node."""

from math import isfinite

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a node sends split-cost updates, changes its split, and measures its incoming link.

    Raises ValueError for a negative number, or a time of 0.
    """

    # Relative change of some cost from which an update is sent upstream; None sends every update.
    min_change: float | None = None
    repeat_s: float | None = None  # seconds after which an unchanged update is sent again; None: never
    period_s: float | None = None  # seconds between updates that the last node starts; None: it starts one
    # Seconds between two looks at the incoming link; None: only with an update from downstream.
    check_s: float | None = None
    # A split is kept while it costs at most ``1 + hysteresis`` times the best one, plus ``switch_s``.
    hysteresis: float = 0.0
    switch_s: float = 0.0  # seconds, see ``hysteresis``
    gap_tasks: int = 8  # tasks over which the time from update to task is averaged (HiveMind, section IV-F)
    # Transfers whose median is the incoming link's rate; 0: the rate as reported. Live mode only, since nothing
    # crosses a wire in the others.
    rate_transfers: int = 0
    remember_s: float | None = None  # seconds after which a measured transfer is forgotten; None: never
    # Seconds per node of the route, beyond twice a task's expected time, after which a neighbour downstream is
    # replaced; None: only when it dies.
    patience_s: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.min_change or 0.0, self.hysteresis, self.switch_s, self.rate_transfers)
        if not all(number >= 0 for number in numbers) or self.gap_tasks < 1:
            raise ValueError("min_change, hysteresis, switch_s, rate_transfers must be 0 or more, gap_tasks 1 or more")
        times = (self.repeat_s, self.period_s, self.check_s, self.remember_s, self.patience_s)
        if any(seconds is not None and not seconds > 0 for seconds in times):
            raise ValueError("repeat_s, period_s, check_s, remember_s and patience_s must be above 0")


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link as reported to a node."""

    rate_bps: float | None = None  # rate in bit/s; None: unlimited
    delay_s: float = 0.0  # seconds that each transfer takes beside that, with HiveMind's psi (Eq. 10)

    def __post_init__(self) -> None:
        if not (isfinite(self.delay_s) and self.delay_s >= 0):
            raise ValueError(f"delay_s must be finite and not negative, got {self.delay_s}")
        if self.rate_bps is not None and not self.rate_bps >= 0:
            raise ValueError(f"rate_bps must not be negative, got {self.rate_bps}")
