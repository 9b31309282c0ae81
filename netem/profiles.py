"""Bidirectional links, and the named links; their figures are assumptions, not measurements."""

import math
from typing import Literal

import msgspec

from netem.link import LinkProfile


class Traces(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trace per direction: the name of a packaged trace, or a file (see ``netem.trace``)."""

    up: str
    down: str


class Duplex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link in both directions; unlimited by default. Raises ValueError for a time factor not positive and finite.

    A ``trace``, for both directions or one each, is followed from the start of a run; ``down`` and ``up`` give the
    values that it does not have.
    """

    down: LinkProfile = LinkProfile()  # towards the UE
    up: LinkProfile = LinkProfile()  # away from the UE
    half_duplex: bool = False  # both directions share one medium and send alternately
    trace: str | Traces | None = None
    time_scale: float = 1.0  # factor on the times of the trace
    repeat: bool = True  # start the trace again at its end
    time_dilation: float = 1.0  # of the run, see ``dilated``; set by the runner, not in a suite

    def __post_init__(self) -> None:
        if not (0 < self.time_scale < math.inf and 0 < self.time_dilation < math.inf):
            given = f"{self.time_scale} and {self.time_dilation}"
            raise ValueError(f"time_scale and time_dilation must be above 0 and finite, got {given}")

    def dilated(self, k: float) -> "Duplex":
        total = self.time_dilation if self.trace is None else k * self.time_dilation
        return msgspec.structs.replace(self, down=self.down.dilated(k), up=self.up.dilated(k), time_dilation=total)


LinkName = Literal["unlimited", "wifi", "5g"]

_WIFI = LinkProfile(rate_bps=60e6, delay_s=0.003, jitter_s=0.001, loss=1e-4)
_5G = LinkProfile(rate_bps=120e6, delay_s=0.010, jitter_s=0.002, loss=1e-5)
LINKS: dict[LinkName, Duplex] = {
    "unlimited": Duplex(),
    "wifi": Duplex(down=_WIFI, up=_WIFI),
    "5g": Duplex(down=_5G, up=msgspec.structs.replace(_5G, rate_bps=30e6)),
}


def duplex(link: LinkName | Duplex) -> Duplex:
    """The link named ``link``, or ``link`` itself if it is a Duplex."""
    return link if isinstance(link, Duplex) else LINKS[link]
