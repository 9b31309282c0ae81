"""Send queue of one emulated link direction, with its back pressure. The time is an argument."""

import random
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from netem.link import SEGMENT_BYTES, Link, LinkProfile, ProfileChange

CHUNK_BYTES = 16 * 1024
CHUNK_S = 0.005  # smaller chunks on slow links, so that bytes leave about as evenly as packets
# Limit of the queue, the larger of both: long enough to bridge a scheduling delay, short enough that the sender
# notices the rate. Bytes in flight (rate x delay) are not counted, so a link of long delay does not starve.
QUEUE_BYTES = 32 * 1024
QUEUE_S = 0.02
BUFFER_BYTES = 64 * 1024 * 1024  # queued and in flight; the limit on a link of unlimited rate


class Pace(NamedTuple):
    """Mean rate of a trace with stalls, by which bytes are queued, and the most bytes that pass at once."""

    mean_bps: float
    burst_bytes: float


class Chunk(NamedTuple):
    read_at: float
    data: bytes | None  # b"" is the end of the stream, None a reset
    sink: Any


class LinkQueue:
    """Chunks of one link direction in order: queued for transmission, then in flight.

    Two directions that share a medium alternate while both have chunks to send.
    """

    def __init__(self, profile: LinkProfile, rng: random.Random) -> None:
        self.full = False
        self._link = Link(profile, rng)
        self._opposite: LinkQueue | None = None
        self._queued: deque[Chunk] = deque()
        self._in_flight: deque[tuple[float, Chunk]] = deque()
        self._queued_bytes = 0
        self._in_flight_bytes = 0
        self._pace: Pace | None = None  # of the schedule that is played

    def share_medium(self, opposite: "LinkQueue") -> None:
        self._link.medium = opposite._link.medium
        self._opposite, opposite._opposite = opposite, self

    @property
    def profile(self) -> LinkProfile:
        """Profile of the bytes sent last."""
        return self._link.profile

    @property
    def chunk_bytes(self) -> int:
        rate_bps = self._rate_bps
        if rate_bps is None:
            return CHUNK_BYTES
        return int(max(SEGMENT_BYTES, min(rate_bps / 8 * CHUNK_S, CHUNK_BYTES)))

    @property
    def wake_at(self) -> float | None:
        """Time of the next transmission or arrival; None if the queue is empty."""
        times = [self._in_flight[0][0]] if self._in_flight else []
        if self._queued:
            times.append(max(self._link.free_at, self._queued[0].read_at))
        return min(times, default=None)

    def put(self, now: float, data: bytes | None, sink: Any) -> None:
        self._queued.append(Chunk(now, data, sink))
        self._queued_bytes += len(data or b"")

    def pop_arrived(self, now: float) -> list[Chunk]:
        # A chunk enters the link only when the medium is free, so a profile change applies to all that are queued.
        while self._queued and self._link.free_at <= now and self._may_transmit():
            chunk = self._queued.popleft()
            size = len(chunk.data or b"")
            self._in_flight.append((self._link.send(chunk.read_at, size), chunk))
            self._queued_bytes -= size
            self._in_flight_bytes += size
        arrived = []
        while self._in_flight and self._in_flight[0][0] <= now:
            arrived.append(self._in_flight.popleft()[1])
            self._in_flight_bytes -= len(arrived[-1].data or b"")
        self.full = self._is_full()
        return arrived

    def change(self, now: float, profile: LinkProfile) -> None:
        """Switch to ``profile`` at ``now``; the chunk being transmitted and those in flight keep the old one."""
        self._pace = None
        self._link.change(now, profile)

    def play(self, schedule: Iterable[ProfileChange], pace: Pace | None = None) -> None:
        """Follow ``schedule``; ``pace`` is that of a trace with stalls."""
        self._pace = pace
        self._link.play(schedule)

    @property
    def _rate_bps(self) -> float | None:
        return self._pace.mean_bps if self._pace else self.profile.rate_bps

    def _may_transmit(self) -> bool:
        opposite = self._opposite
        return opposite is None or not opposite._queued or self._link.medium.last_sender is not self._link

    def _is_full(self) -> bool:
        """Whether reading must pause; it resumes at half the limit, so that it does not pause at every chunk."""
        share = 0.5 if self.full else 1.0
        burst_bytes = self._pace.burst_bytes if self._pace else 0.0  # which half of the limit holds
        queue_limit_bytes = max(QUEUE_BYTES, (self._rate_bps or 0.0) / 8 * QUEUE_S, 2 * burst_bytes)
        buffered_bytes = self._queued_bytes + self._in_flight_bytes
        return self._queued_bytes >= share * queue_limit_bytes or buffered_bytes >= share * BUFFER_BYTES
