"""Linux traffic control settings for a link profile, encoded for netlink. No I/O.

- netem applies a whole profile; tbf, for kernels without netem, only its rate.
- A packet counts with its TCP payload (a size table subtracts ``OVERHEAD_BYTES``), so rates are payload rates as in
  the emulator, and acknowledgements use almost none of them.
- An unlimited rate is the highest that netlink's 32 bits express, 34 Gbit/s: netem keeps packets in order under
  jitter only if it has a rate.
- Correlated loss is netem's Gilbert-Elliott model with loss 1 in the bad state and 0 in the good state.

Layouts: <linux/pkt_sched.h>. Numbers are little-endian, as on all machines that torch is built for.
"""

import functools
import math
import struct
from typing import Literal

import msgspec

from netem.jitter import Distribution, quantile
from netem.link import SEGMENT_BYTES, LinkProfile
from netem.link_queue import QUEUE_BYTES, QUEUE_S

ShaperKind = Literal["netem", "tbf"]

OVERHEAD_BYTES = 66  # headers: Ethernet 14, IP 20, TCP 20, TCP timestamps 12
FASTEST_BYTES_PER_S = (1 << 32) - 1
PROBABILITY_ONE = (1 << 32) - 1
TABLE_SIZE, TABLE_SCALE = 4096, 8192  # of a jitter distribution; TABLE_SCALE stands for one jitter_s

# Burst that tbf lets through after a pause: late timers need it, small messages arrive earlier by it.
BURST_S, BURST_PACKETS = 0.0005, 2

OPTIONS, STAB = 2, 8  # TCA_…
STAB_BASE = 1
NETEM_CORR, NETEM_DELAY_DIST, NETEM_REORDER = 1, 2, 3
NETEM_LOSS, NETEM_RATE, NETEM_LATENCY64, NETEM_JITTER64 = 5, 6, 10, 11
LOSS_GE = 2
TBF_PARMS, TBF_BURST = 1, 6
ETHERNET = 1


class Netem(msgspec.Struct, frozen=True, kw_only=True):
    """netem settings in kernel units: nanoseconds, packets, bytes per second, probabilities times 2^32 - 1."""

    delay_ns: int
    jitter_ns: int
    distribution: Distribution
    delay_correlation: int
    limit_packets: int
    loss: int  # independent losses
    loss_chain: tuple[int, int] | None  # transitions good to bad, bad to good
    duplicate: int
    reorder: int
    rate: int


class Tbf(msgspec.Struct, frozen=True, kw_only=True):
    """tbf settings: rate in bytes per second, sizes in bytes."""

    rate: int
    burst_bytes: int
    limit_bytes: int


def netem(profile: LinkProfile) -> Netem:
    loss, correlation = profile.loss, profile.loss_correlation
    chain = (_probability(loss * (1 - correlation)), _probability((1 - loss) * (1 - correlation)))
    correlated = bool(loss and correlation)
    return Netem(
        delay_ns=round(profile.delay_s * 1e9),
        jitter_ns=round(profile.jitter_s * 1e9),
        distribution=profile.jitter_distribution,
        delay_correlation=_probability(profile.jitter_correlation),
        limit_packets=profile.limit_packets or _limit_packets(profile),
        loss=0 if correlated else _probability(loss),
        loss_chain=chain if correlated else None,
        duplicate=_probability(profile.duplicate),
        reorder=_probability(profile.reorder),
        rate=_rate(profile),
    )


def tbf(profile: LinkProfile) -> Tbf:
    """tbf settings for the rate of ``profile``; the emulator applies delay, jitter and loss."""
    rate = _rate(profile)
    burst_bytes = max(BURST_PACKETS * SEGMENT_BYTES, math.ceil(rate * BURST_S))
    return Tbf(
        rate=rate, burst_bytes=burst_bytes, limit_bytes=burst_bytes + max(QUEUE_BYTES, math.ceil(rate * QUEUE_S))
    )


def options(kind: ShaperKind, profile: LinkProfile) -> bytes:
    """Payload of TCA_OPTIONS that applies ``profile`` as far as ``kind`` can, and resets every other option."""
    return _encode_netem(netem(profile)) if kind == "netem" else _encode_tbf(tbf(profile))


def size_table() -> bytes:
    """Payload of TCA_STAB that counts a packet with its TCP payload, at least one byte."""
    return _attribute(STAB_BASE, struct.pack("<BBhiIIII", 0, 0, 0, -OVERHEAD_BYTES, ETHERNET, 0, 0, 0))


def _rate(profile: LinkProfile) -> int:
    rate_bps = math.inf if profile.rate_bps is None else profile.rate_bps
    return round(min(FASTEST_BYTES_PER_S, max(1, rate_bps / 8)))


def _limit_packets(profile: LinkProfile) -> int:
    """Packets in flight, and in a queue of one round trip, which TCP needs to keep the link busy."""
    rate = _rate(profile)
    in_flight_bytes = rate * (profile.delay_s + 4 * profile.jitter_s)
    queued_bytes = max(QUEUE_BYTES, rate * max(QUEUE_S, 2 * profile.delay_s))
    return math.ceil((in_flight_bytes + queued_bytes) / SEGMENT_BYTES)


def _probability(probability: float) -> int:
    return round(probability * PROBABILITY_ONE)


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
    """Quantiles in order, of which netem draws one per packet."""
    shares = ((number + 0.5) / TABLE_SIZE for number in range(TABLE_SIZE))
    values = [min(32767, round(TABLE_SCALE * quantile(distribution, share))) for share in shares]
    return struct.pack(f"<{TABLE_SIZE}h", *values)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
