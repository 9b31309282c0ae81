"""Deterministic model of one link direction: a profile, and the arrival time of every byte. Reads no clock."""

import itertools
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator
from statistics import NormalDist

import msgspec

from netem.jitter import Distribution, quantile

SEGMENT_BYTES = 1448  # TCP payload of a 1,500-byte packet; the unit of loss
NO_LOSS_SEGMENTS = 1 << 40  # distance to the next loss on a link without loss; exact as a float of bytes

ProfileChange = tuple[float, "LinkProfile"]  # start time in seconds, profile from then on


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Properties of one link direction.

    The kernel's netem applies all of them to packets. The emulator and virtual time carry a byte stream: a loss
    delays the following bytes by one round trip and leaves the rate unchanged, and the last three fields are refused
    (see ``check_stream``). On a kernel with tbf alone, tbf limits the rate and the emulator does the rest.

    Raises ValueError for a value out of range, or ``reorder`` without ``delay_s``.
    """

    rate_bps: float | None = None  # TCP payload rate in bits per second; None: unlimited
    delay_s: float = 0.0  # one-way delay in seconds
    # Scale of the random delay in seconds (the normal's standard deviation). A draw times this value is added to
    # ``delay_s``; the sum is never negative, and bytes are never reordered.
    jitter_s: float = 0.0
    loss: float = 0.0  # probability that a 1,448-byte segment is lost, in [0, 1)
    jitter_distribution: Distribution = "normal"  # of the draws, see ``netem.jitter``
    # Correlation between successive draws, in [0, 1), on the scale of a normal, so that the distribution is kept. The
    # kernel's netem accepts it, but measurements show no effect there: it indexes its table by the lowest bits of the
    # draw, which are almost independent.
    jitter_correlation: float = 0.0
    # Correlation between the losses of successive segments, in [0, 1): a two-state Markov chain, netem's ``gemodel``.
    # (netem's own loss correlation loses less than asked for.)
    loss_correlation: float = 0.0
    duplicate: float = 0.0  # probability that a packet is duplicated, in [0, 1)
    reorder: float = 0.0  # probability that a packet skips the delay and overtakes others, in [0, 1)
    # Packets in flight or queued before more are dropped; None derives it from rate and delay.
    limit_packets: int | None = None

    def __post_init__(self) -> None:
        if self.rate_bps is not None and not self.rate_bps > 0:
            raise ValueError(f"rate_bps must be above 0, got {self.rate_bps}")
        if self.delay_s < 0 or self.jitter_s < 0:
            raise ValueError(f"delay_s and jitter_s must not be negative, got {self.delay_s} and {self.jitter_s}")
        for name in ("loss", "jitter_correlation", "loss_correlation", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.reorder and not self.delay_s:
            raise ValueError("reorder needs a delay_s above 0: without a delay no packet can overtake another")
        if self.limit_packets is not None and self.limit_packets < 1:
            raise ValueError(f"limit_packets must be at least 1, got {self.limit_packets}")

    def check_stream(self) -> None:
        """Raise ValueError for a property that the emulator and virtual time cannot reproduce on a byte stream."""
        for name in ("duplicate", "reorder", "limit_packets"):
            if getattr(self, name):
                raise ValueError(f"{name}: not supported on a byte stream; use the kernel's netem (--shaping kernel)")

    def dilated(self, k: float) -> "LinkProfile":
        """The profile with time slowed down by ``k``: the rate divided by k, delay and jitter multiplied by k."""
        rate_bps = None if self.rate_bps is None else self.rate_bps / k
        return msgspec.structs.replace(self, rate_bps=rate_bps, delay_s=k * self.delay_s, jitter_s=k * self.jitter_s)

    @property
    def unlimited(self) -> bool:
        """Whether traffic passes unchanged, so that no emulator is needed."""
        return self == LinkProfile()


class Medium:
    """Transmission medium of one direction, or of both directions of a half-duplex link."""

    def __init__(self) -> None:
        self.free_at = -math.inf  # end of the transmission so far; the bytes may still be in flight
        self.last_sender: Link | None = None


class Link:
    """Arrival times of the bytes sent over one link direction.

    Bytes are transmitted one after the other at the profile's rate, then delayed. The rate limit allows no burst, as
    with netem's ``rate``: a burst would hide the transmission time of small messages.

    - Loss: a lost segment and all bytes behind it are sent one round trip (twice this direction's delay) later; the
      retransmission always arrives. A segment ends after 1,448 bytes or when the link becomes idle.
    - Jitter: one draw for all bytes sent back to back, so a message arrives at the same time whether it enters whole
      or in chunks; an idle link draws again. Arrival times never decrease.
    - Half duplex: two directions that share a ``medium`` transmit alternately, in the order in which bytes enter. A
      direction that waits for a retransmission keeps the medium.
    - Change: a new profile applies from its start time to every bit not yet transmitted. Register it before bytes
      enter that are transmitted after that time: ``send`` never revises a result. Play a known trace as a whole.

    Exact for messages of any size; the cost grows with the losses and changes during the transmission. ``rng`` draws
    loss and jitter. Raises ValueError for a profile that a byte stream cannot reproduce.
    """

    def __init__(self, profile: LinkProfile, rng: random.Random) -> None:
        profile.check_stream()
        self.profile = profile  # profile of the bytes sent last
        self.medium = Medium()  # shared by both directions of a half-duplex link, before anything is sent
        self._rng = rng
        self._changes: deque[ProfileChange] = deque()
        self._schedule: Iterator[ProfileChange] | None = None
        self._arrived_at = -math.inf
        self._jitter_score = 0.0  # standard normal
        self._bytes_to_loss = float(self._segments_to_loss() * SEGMENT_BYTES)

    @property
    def free_at(self) -> float:
        return self.medium.free_at

    def change(self, at: float, profile: LinkProfile) -> None:
        """Switch to ``profile`` at ``at`` seconds and end a schedule. Raises ValueError if a later change exists."""
        profile.check_stream()
        if self._schedule is not None:
            self._schedule = None
            self._changes.clear()
        if self._changes and at < self._changes[-1][0]:
            raise ValueError(f"change at {at} s: one at {self._changes[-1][0]} s is registered; register in order")
        self._changes.append((at, profile))

    def play(self, schedule: Iterable[ProfileChange]) -> None:
        """Follow ``schedule``, in order of time and read only as bytes are sent, in place of registered changes."""
        self._schedule = iter(schedule)
        self._changes.clear()
        self._read_next_change()

    def send(self, now: float, n_bytes: int) -> float:
        """Send ``n_bytes`` that enter at ``now``, which must not decrease; return when the last byte arrives."""
        medium = self.medium
        medium.last_sender = self
        idle = now > medium.free_at
        if idle:
            medium.free_at = now
            self._bytes_to_loss -= self._bytes_to_loss % SEGMENT_BYTES
        self._apply_changes()
        if idle and self.profile.jitter_s:
            correlation = self.profile.jitter_correlation
            self._jitter_score *= correlation
            self._jitter_score += math.sqrt(1 - correlation**2) * self._rng.gauss(0.0, 1.0)
        unsent_bytes = float(n_bytes)
        while unsent_bytes > 1e-6:  # less is a rounding error of a change
            if self._bytes_to_loss <= 0:
                medium.free_at += 2 * self.profile.delay_s
                self._apply_changes()
                self._bytes_to_loss = float((1 + self._segments_to_loss_after_loss()) * SEGMENT_BYTES)
            part = self._transmit(min(unsent_bytes, self._bytes_to_loss))
            unsent_bytes -= part
            self._bytes_to_loss -= part
            self._apply_changes()
        self._bytes_to_loss = float(round(self._bytes_to_loss))
        self._arrived_at = max(self._arrived_at, medium.free_at + self._delay_s())
        return self._arrived_at

    def _delay_s(self) -> float:
        profile = self.profile
        if not profile.jitter_s:
            return profile.delay_s
        draw = quantile(profile.jitter_distribution, NormalDist().cdf(self._jitter_score))
        return max(0.0, profile.delay_s + profile.jitter_s * draw)

    def _transmit(self, n_bytes: float) -> float:
        """Transmit up to ``n_bytes`` until the next change; return the number transmitted."""
        if self.profile.rate_bps is None:
            return n_bytes
        done_at = self.free_at + 8 * n_bytes / self.profile.rate_bps
        if self._changes and self._changes[0][0] < done_at:
            at = self._changes[0][0]
            n_bytes = min(n_bytes, (at - self.free_at) * self.profile.rate_bps / 8)
            done_at = at
        self.medium.free_at = done_at
        return n_bytes

    def _apply_changes(self) -> None:
        while self._changes and self._changes[0][0] <= self.free_at:
            before, self.profile = self.profile, self._changes.popleft()[1]
            self._read_next_change()
            if (before.loss, before.loss_correlation) != (self.profile.loss, self.profile.loss_correlation):
                begun = self._bytes_to_loss % SEGMENT_BYTES  # rest of a segment that got through
                self._bytes_to_loss = begun + self._segments_to_loss() * SEGMENT_BYTES

    def _read_next_change(self) -> None:
        if self._schedule is not None:
            self._changes.extend(itertools.islice(self._schedule, 1))

    def _segments_to_loss(self) -> int:
        """Number of segments before the next lost one: a geometric draw."""
        loss = self.profile.loss * (1 - self.profile.loss_correlation)  # of a segment behind a delivered one
        if not loss:
            return NO_LOSS_SEGMENTS
        return int(min(NO_LOSS_SEGMENTS, math.log(1.0 - self._rng.random()) / math.log1p(-loss)))

    def _segments_to_loss_after_loss(self) -> int:
        """The same draw, directly behind a lost segment."""
        loss, correlation = self.profile.loss, self.profile.loss_correlation
        if not correlation:
            return self._segments_to_loss()
        return 0 if self._rng.random() < loss + correlation * (1 - loss) else 1 + self._segments_to_loss()
