"""Which links are known by name? Assumed figures of the kind of link, not measurements of any network."""

import math
from typing import Literal

import msgspec

from netem.link import LinkProfile


class Traces(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trace for each direction: a packaged one's name, or a file (see ``netem.trace``)."""

    up: str
    down: str


class Duplex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link in both directions; unlimited where nothing is said. ``down`` leads to the UE, ``up`` away from it.

    With ``half_duplex`` one direction sends at a time: both share one medium. With a ``trace``, one for both
    directions or one for each, the link follows it from the start of a run on; ``down`` and ``up`` are what the trace
    leaves open. Its times are multiplied by ``time_scale``, and it starts again at its end if it is to ``repeat``.
    ``time_dilation`` is that of the run, see ``dilated``; no suite sets it.
    """

    down: LinkProfile = LinkProfile()
    up: LinkProfile = LinkProfile()
    half_duplex: bool = False
    trace: str | Traces | None = None
    time_scale: float = 1.0
    repeat: bool = True
    time_dilation: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.time_scale < math.inf and 0 < self.time_dilation < math.inf):
            raise ValueError("time_scale and time_dilation must be above 0")

    def dilated(self, k: float) -> "Duplex":
        """The link where time runs ``k`` times as slowly."""
        slow = msgspec.structs.replace(self, down=self.down.dilated(k), up=self.up.dilated(k))
        return slow if self.trace is None else msgspec.structs.replace(slow, time_dilation=k * self.time_dilation)


LinkName = Literal["unlimited", "wifi", "5g"]

LINKS: dict[LinkName, Duplex] = {
    "unlimited": Duplex(),
    "wifi": Duplex(
        down=LinkProfile(rate_bps=60e6, delay_s=0.003, jitter_s=0.001, loss=1e-4),
        up=LinkProfile(rate_bps=60e6, delay_s=0.003, jitter_s=0.001, loss=1e-4),
    ),
    "5g": Duplex(
        down=LinkProfile(rate_bps=120e6, delay_s=0.010, jitter_s=0.002, loss=1e-5),
        up=LinkProfile(rate_bps=30e6, delay_s=0.010, jitter_s=0.002, loss=1e-5),
    ),
}


def duplex(link: LinkName | Duplex) -> Duplex:
    """The link of that name, or the one described."""
    return link if isinstance(link, Duplex) else LINKS[link]
