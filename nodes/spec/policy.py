"""Policy of split updates, and the link that a node is told of."""

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How eagerly a node updates. ``min_change`` None tells every update; the last node begins one each ``period_s``.

    Each node looks at its incoming link again each ``check_s`` (None: only with an update from downstream).
    ``gap_tasks`` is over how many tasks the time from update to task is averaged, for estimates that look ahead.
    Over the last ``rate_transfers`` the incoming link's rate is measured (0: it is as told), each forgotten after
    ``remember_s`` (None: never); live, as nothing crosses a wire elsewhere. A neighbour downstream is given up when a
    task takes twice what it should and ``patience_s`` more for each node of the route (None: when it dies).
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
    """What a node is told of a link: its rate, and what each transfer takes beside that (Eq. 10's psi included)."""

    rate_bps: float | None = None
    delay_s: float = 0.0
