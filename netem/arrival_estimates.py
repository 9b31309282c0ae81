"""What do arrival times tell of a link? Its rate, its losses and its jitter. Pure: the times are given.

A link delivers on its line or later, never sooner. A reader that was late is soon on the line again, as the link
did not wait for it; what a loss holds up stays behind. So lateness that lasts tells of losses, and what is left
without them of the rate.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

from netem.link import SEGMENT_BYTES

NORMAL_QUARTILES = 1.349  # between the quartiles of a normal, in standard deviations
LEAST_STAMPS = 8  # fewer, and the first and the last are all there is

Stamp = tuple[float, int]  # when, and how many bytes of the stream had come by then


class Stream(NamedTuple):
    """What a stream of ``segments`` told: the rate while it flowed, and how often it stalled for a round trip."""

    rate_bps: float
    losses: int
    segments: float


def stream(stamps: Sequence[Stamp], rate_bps: float | None = None, stall_s: float = 0.0) -> Stream:
    """Read ``stamps`` of bytes sent without a pause over a link that should have ``rate_bps``.

    Each loss should hold it up for ``stall_s``; 0 if none is to be told. The rate is that of the median pair of
    stamps half the stream apart, so some late ones do not count. Needs two stamps or more.
    """
    byte_s = 8 / rate_bps if rate_bps else 0.0
    least_s = byte_s / 2  # a byte takes more, as no link is twice as fast as asked for
    late_s = [at - count * least_s for at, count in stamps]
    for index in range(len(late_s) - 2, -1, -1):  # what is made up for later was the reader's
        late_s[index] = min(late_s[index], late_s[index + 1])
    losses = 0
    flowing_s = [late_s[0]]  # the same without stalls
    for index, (before, after) in enumerate(pairwise(late_s)):
        sending_s = (byte_s - least_s) * (stamps[index + 1][1] - stamps[index][1])
        losses += max(0, round((after - before - sending_s) / stall_s)) if stall_s else 0
        flowing_s.append(after - losses * stall_s)
    half = len(stamps) // 2 if len(stamps) >= LEAST_STAMPS else len(stamps) - 1
    slopes = [
        (flowing_s[index + half] - flowing_s[index]) / (stamps[index + half][1] - stamps[index][1])
        for index in range(len(stamps) - half)
    ]
    found_s = max(least_s + median(slopes), 1e-12)
    return Stream(8 / found_s, losses, (stamps[-1][1] - stamps[0][1]) / SEGMENT_BYTES)


def spread(delays_s: Sequence[float]) -> float:
    """The standard deviation of normal ``delays_s`` of which some came late: by their quartiles."""
    low, _, high = quantiles(delays_s, n=4)
    return (high - low) / NORMAL_QUARTILES
