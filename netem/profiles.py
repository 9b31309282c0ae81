"""Which links are known by name? Assumed figures of the kind of link, not measurements of any network."""

from typing import Literal

import msgspec

from netem.link import LinkProfile


class Duplex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link in both directions; unlimited where nothing is said. ``down`` leads to the UE, ``up`` away from it."""

    down: LinkProfile = LinkProfile()
    up: LinkProfile = LinkProfile()


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
