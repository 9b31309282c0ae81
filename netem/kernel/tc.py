"""Which settings of Linux traffic control make a link's profile? Bytes for netlink. Pure.

- netem does all of a profile; tbf, where a kernel has no netem, the rate alone.
- A packet counts as what TCP carries in it (``OVERHEAD_BYTES`` less, by a size table), so a rate is one of
  payload, as the emulator's is, and acknowledgements take no share of it.
- An unlimited rate is the highest that netlink's 32 bits name, 34 Gbit/s: with a rate, netem keeps the order of
  packets whatever the jitter.
- Correlated loss is netem's Gilbert-Elliott model, whose bad state loses all and whose good one none.

Layouts: <linux/pkt_sched.h>. Numbers are little-endian, as on all machines that torch is built for.
"""

import functools
import math
import struct
from typing import Literal

import msgspec

from netem.jitter import Distribution, quantile
from netem.link import SEGMENT_BYTES, LinkProfile

ShaperKind = Literal["netem", "tbf"]

OVERHEAD_BYTES = 66  # Ethernet 14, IP 20, TCP 20, its time stamps 12
FASTEST_BYTES_PER_S = (1 << 32) - 1
CERTAIN = (1 << 32) - 1  # a probability of 1
TABLE_SIZE, TABLE_SCALE = 4096, 8192  # of a distribution, and netem's one jitter_s

# How much may wait for the line: a round trip, which TCP needs to keep it busy, or as much as the emulator holds.
WAITING_S, WAITING_BYTES = 0.02, 32 * 1024
# tbf lets so much through at once after a pause: small messages come early by that, late timers need it.
BURST_S, BURST_PACKETS = 0.0005, 2

OPTIONS, STAB = 2, 8  # TCA_…
STAB_BASE = 1
NETEM_CORR, NETEM_DELAY_DIST, NETEM_REORDER, NETEM_LOSS, NETEM_RATE, NETEM_LATENCY64, NETEM_JITTER64 = (
    1,
    2,
    3,
    5,
    6,
    10,
    11,
)
LOSS_GE = 2
TBF_PARMS, TBF_BURST = 1, 6
ETHERNET = 1


class Netem(msgspec.Struct, frozen=True, kw_only=True):
    """netem's settings as the kernel takes them: nanoseconds, packets, bytes a second, shares of 2^32 - 1."""

    delay_ns: int
    jitter_ns: int
    distribution: Distribution
    delay_correlation: int
    limit_packets: int
    loss: int  # of independent losses
    loss_chain: tuple[int, int] | None  # good to bad, bad to good
    duplicate: int
    reorder: int
    rate: int


class Tbf(msgspec.Struct, frozen=True, kw_only=True):
    """tbf's settings: bytes a second, bytes."""

    rate: int
    burst_bytes: int
    limit_bytes: int


def netem(profile: LinkProfile) -> Netem:
    """All of ``profile``."""
    loss, correlation = profile.loss, profile.loss_correlation
    chain = (_share(loss * (1 - correlation)), _share((1 - loss) * (1 - correlation)))
    correlated = bool(loss and correlation)
    return Netem(
        delay_ns=round(profile.delay_s * 1e9),
        jitter_ns=round(profile.jitter_s * 1e9),
        distribution=profile.jitter_distribution,
        delay_correlation=_share(profile.jitter_correlation),
        limit_packets=profile.limit_packets or _limit_packets(profile),
        loss=0 if correlated else _share(loss),
        loss_chain=chain if correlated else None,
        duplicate=_share(profile.duplicate),
        reorder=_share(profile.reorder),
        rate=_rate(profile),
    )


def tbf(profile: LinkProfile) -> Tbf:
    """The rate of ``profile``; its delay, jitter and loss are another's to do."""
    rate = _rate(profile)
    burst_bytes = max(BURST_PACKETS * SEGMENT_BYTES, math.ceil(rate * BURST_S))
    return Tbf(
        rate=rate,
        burst_bytes=burst_bytes,
        limit_bytes=burst_bytes + max(WAITING_BYTES, math.ceil(rate * WAITING_S)),
    )


def options(kind: ShaperKind, profile: LinkProfile) -> bytes:
    """What TCA_OPTIONS holds to make a link do what ``profile`` says, as far as ``kind`` can.

    Given in full, so that as a change it leaves nothing of what was set before.
    """
    return _encode_netem(netem(profile)) if kind == "netem" else _encode_tbf(tbf(profile))


def size_table() -> bytes:
    """What TCA_STAB holds so that packets count as their payload, one byte at least."""
    return _attribute(STAB_BASE, struct.pack("<BBhiIIII", 0, 0, 0, -OVERHEAD_BYTES, ETHERNET, 0, 0, 0))


def _rate(profile: LinkProfile) -> int:
    return (
        FASTEST_BYTES_PER_S
        if profile.rate_bps is None
        else min(FASTEST_BYTES_PER_S, max(1, round(profile.rate_bps / 8)))
    )


def _limit_packets(profile: LinkProfile) -> int:
    """What travels, and what waits meanwhile."""
    rate = _rate(profile)
    travelling_bytes = rate * (profile.delay_s + 4 * profile.jitter_s)
    waiting_bytes = max(WAITING_BYTES, rate * max(WAITING_S, 2 * profile.delay_s))
    return math.ceil((travelling_bytes + waiting_bytes) / SEGMENT_BYTES)


def _share(probability: float) -> int:
    return round(probability * CERTAIN)


def _encode_netem(settings: Netem) -> bytes:
    parts = [
        struct.pack("<IIIIII", 0, settings.limit_packets, settings.loss, bool(settings.reorder), settings.duplicate, 0),
        _attribute(NETEM_LATENCY64, struct.pack("<q", settings.delay_ns)),
        _attribute(NETEM_JITTER64, struct.pack("<q", settings.jitter_ns)),
        _attribute(NETEM_CORR, struct.pack("<III", settings.delay_correlation, 0, 0)),
        _attribute(NETEM_REORDER, struct.pack("<II", settings.reorder, 0)),
        _attribute(NETEM_RATE, struct.pack("<IiIi", settings.rate, 0, 0, 0)),
    ]
    if settings.jitter_ns:
        parts.append(_attribute(NETEM_DELAY_DIST, _table(settings.distribution)))
    if settings.loss_chain:
        parts.append(_attribute(NETEM_LOSS, _attribute(LOSS_GE, struct.pack("<IIII", *settings.loss_chain, 0, 0))))
    return b"".join(parts)


def _encode_tbf(settings: Tbf) -> bytes:
    rate = struct.pack("<BBHhHI", 0, ETHERNET, 0, 0, 0, settings.rate)
    parameters = rate + bytes(len(rate)) + struct.pack("<III", settings.limit_bytes, 0, 0)
    return _attribute(TBF_PARMS, parameters) + _attribute(TBF_BURST, struct.pack("<I", settings.burst_bytes))


@functools.cache
def _table(distribution: Distribution) -> bytes:
    """Quantiles in order: netem draws one of them each time."""
    shares = ((number + 0.5) / TABLE_SIZE for number in range(TABLE_SIZE))
    values = [min(32767, round(TABLE_SCALE * quantile(distribution, share))) for share in shares]
    return struct.pack(f"<{TABLE_SIZE}h", *values)


def _attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
