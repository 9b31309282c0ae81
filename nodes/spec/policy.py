"""Policy of split updates, and the properties of a link as reported to a node."""

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a node sends split-cost updates, changes its split, and measures its incoming link.

    Args:
        min_change: Relative change of some cost from which an update is sent upstream; None sends every update.
        repeat_s: Seconds after which an unchanged update is sent again; None: never.
        period_s: Seconds between updates that the last node starts; None: it starts one.
        check_s: Seconds between two looks at the incoming link; None: only with an update from downstream.
        hysteresis: A split is kept while it costs at most ``1 + hysteresis`` times the best one, plus ``switch_s``.
        switch_s: Seconds, see ``hysteresis``.
        gap_tasks: Tasks over which the time from update to task is averaged (HiveMind, section IV-F).
        rate_transfers: Transfers whose median is the incoming link's rate; 0: the rate as reported. Live mode only,
            since nothing crosses a wire in the others.
        remember_s: Seconds after which a measured transfer is forgotten; None: never.
        patience_s: Seconds per node of the route, beyond twice a task's expected time, after which a neighbour
            downstream is replaced; None: only when it dies.

    Raises:
        ValueError: A negative number, or a time of 0.
    """

    min_change: float | None = None
    repeat_s: float | None = None
    period_s: float | None = None
    check_s: float | None = None
    hysteresis: float = 0.0
    switch_s: float = 0.0
    gap_tasks: int = 8
    rate_transfers: int = 0
    remember_s: float | None = None
    patience_s: float | None = None

    def __post_init__(self) -> None:
        if min(self.min_change or 0.0, self.hysteresis, self.switch_s, self.rate_transfers) < 0 or self.gap_tasks < 1:
            raise ValueError(
                "min_change, hysteresis, switch_s and rate_transfers must be at least 0, gap_tasks at least 1"
            )
        times = (self.repeat_s, self.period_s, self.check_s, self.remember_s, self.patience_s)
        if any(seconds is not None and not seconds > 0 for seconds in times):
            raise ValueError("repeat_s, period_s, check_s, remember_s and patience_s must be above 0")


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link as reported to a node.

    Args:
        rate_bps: Rate in bit/s; None: unlimited.
        delay_s: Seconds that each transfer takes beside that, with HiveMind's psi (Eq. 10).
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
