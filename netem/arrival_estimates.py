"""Estimates of a link's rate, losses and jitter from arrival times.

The link never delivers early. A late reader delays only its own timestamps, since the link does not wait for it; a
loss delays everything behind it. Lateness that lasts therefore counts losses, and what remains gives the rate.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

from netem.link import SEGMENT_BYTES

NORMAL_QUARTILES = 1.349  # interquartile range of a normal, in standard deviations
MIN_STAMPS = 8  # with fewer, only the first and the last timestamp are used

Stamp = tuple[float, int]  # time in seconds, bytes of the stream received by then


class StreamEstimate(NamedTuple):
    """Rate of a stream of ``segments`` segments without its stalls, and the number of stalls of one round trip."""

    rate_bps: float
    losses: int
    segments: float


def estimate_stream(stamps: Sequence[Stamp], rate_bps: float | None = None, stall_s: float = 0.0) -> StreamEstimate:
    """Estimate rate and losses from two or more ``stamps`` of bytes sent without a pause.

    ``rate_bps`` is the link's configured rate, None if unlimited; ``stall_s`` is the stall that one loss causes, in
    seconds (0 counts no losses). The rate is that of the median pair of stamps half the stream apart, so a few late
    ones do not matter.
    """
    byte_s = 8 / rate_bps if rate_bps else 0.0
    min_byte_s = byte_s / 2  # no link is twice as fast as configured
    late_s = [at - count * min_byte_s for at, count in stamps]
    for index in range(len(late_s) - 2, -1, -1):  # lateness that is caught up later was the reader's
        late_s[index] = min(late_s[index], late_s[index + 1])
    losses = 0
    flowing_s = [late_s[0]]  # lateness without the stalls
    for index, (before, after) in enumerate(pairwise(late_s)):
        sending_s = (byte_s - min_byte_s) * (stamps[index + 1][1] - stamps[index][1])
        losses += max(0, round((after - before - sending_s) / stall_s)) if stall_s else 0
        flowing_s.append(after - losses * stall_s)
    half = len(stamps) // 2 if len(stamps) >= MIN_STAMPS else len(stamps) - 1
    slopes = [
        (flowing_s[index + half] - flowing_s[index]) / (stamps[index + half][1] - stamps[index][1])
        for index in range(len(stamps) - half)
    ]
    measured_byte_s = max(min_byte_s + median(slopes), 1e-12)
    return StreamEstimate(8 / measured_byte_s, losses, (stamps[-1][1] - stamps[0][1]) / SEGMENT_BYTES)


def estimate_deviation(delays_s: Sequence[float]) -> float:
    """Standard deviation of normal ``delays_s``, from their quartiles, so that a few late ones do not matter."""
    low, _, high = quantiles(delays_s, n=4)
    return (high - low) / NORMAL_QUARTILES
