"""What does a link do? Its profile and, given the time, when bytes that enter it come out. Pure: no clock."""

import itertools
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator
from statistics import NormalDist

import msgspec

from netem.jitter import Distribution, quantile

SEGMENT_BYTES = 1448  # what TCP puts into a 1,500-byte packet; the unit of loss
NEVER = 1 << 40  # segments to the next loss where there is none; a float holds as many bytes exactly


Planned = tuple[float, "LinkProfile"]  # from when on, in seconds, and what


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One direction of a link.

    - ``rate_bps``: bits of TCP's payload a second; None for an unlimited rate.
    - ``delay_s``: one way. ``jitter_s`` is added to it, times a draw from ``jitter_distribution`` (see
      ``netem.jitter``; the normal's standard deviation), never below zero and never reordering.
      ``jitter_correlation`` is that of one draw with the next, as scores of a normal, so the distribution stays.
      (netem is given it too, but picks from its table by a draw's lowest bits, which are as good as independent:
      measured, it changes nothing there.)
    - ``loss``: the probability that a 1,448-byte segment is lost. ``loss_correlation`` is the correlation of one
      segment's loss with the next one's: a chain of two states, netem's ``gemodel``. (netem's own loss
      correlation would lose fewer than asked for.)
    - ``duplicate``, ``reorder``: the probability that a packet comes twice, or overtakes those that are delayed.
    - ``limit_packets``: how many may be under way or wait before more are dropped; None for what the rate and
      delay need.

    The kernel's netem does all of that to packets. The emulator and virtual time carry a byte stream, where a
    loss delays all behind it by one round trip and the rate stays; they refuse the last three, which a stream
    does not show. Where the kernel has tbf alone, it does the rate and the emulator the rest.
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    jitter_distribution: Distribution = "normal"
    jitter_correlation: float = 0.0
    loss_correlation: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    limit_packets: int | None = None

    def __post_init__(self) -> None:
        if self.rate_bps is not None and not self.rate_bps > 0:
            raise ValueError(f"rate_bps must be above 0, got {self.rate_bps}")
        if self.delay_s < 0 or self.jitter_s < 0:
            raise ValueError("delay_s and jitter_s must not be negative")
        for name in ("loss", "jitter_correlation", "loss_correlation", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.reorder and not self.delay_s:
            raise ValueError("reorder needs a delay_s: what overtakes is what is not delayed")
        if self.limit_packets is not None and self.limit_packets < 1:
            raise ValueError(f"limit_packets must be above 0, got {self.limit_packets}")

    def check_stream(self) -> None:
        """Raise ValueError if a byte stream cannot show what this profile asks for."""
        for name in ("duplicate", "reorder", "limit_packets"):
            if getattr(self, name):
                raise ValueError(f"{name}: a byte stream does not show it; only the kernel's netem does")

    def dilated(self, k: float) -> "LinkProfile":
        """The profile where time runs ``k`` times as slowly: the rate by k, delay and jitter times k."""
        rate_bps = None if self.rate_bps is None else self.rate_bps / k
        return msgspec.structs.replace(self, rate_bps=rate_bps, delay_s=k * self.delay_s, jitter_s=k * self.jitter_s)

    @property
    def unlimited(self) -> bool:
        """True if traffic passes unchanged, so that no emulator needs to stand in its way."""
        return self == LinkProfile()


class Medium:
    """What is sent over: a wire of its own for each direction, or one for both, where one sends at a time."""

    def __init__(self) -> None:
        self.free_at = -math.inf  # when all that entered is sent; it may still travel
        self.sender: Link | None = None  # the last that sent


class Link:
    """One direction of a link: told when bytes enter, it says when they have arrived.

    Bytes are sent one after the other at the profile's rate, then travel for its delay. The token bucket has
    no store, as with netem's ``rate``: one that does would hide the sending time of small messages.

    - Loss: a lost segment, and all behind it, is sent one round trip (twice this direction's delay) later;
      what is sent again arrives. A segment ends after 1,448 bytes or where the line falls idle.
    - Jitter: one draw for all bytes sent back to back, so a message arrives at the same time whether it
      enters whole or in chunks; an idle line draws anew. Nothing overtakes: arrival times never decrease.
    - Half duplex: two directions that share a ``medium`` send one after the other, in the order in which bytes
      enter. A direction that waits for a round trip after a loss keeps the medium meanwhile.
    - Change: a profile is followed from its time on, by every bit not yet sent then. It must be planned
      before the bytes enter, for a time that ``send`` has told stays; plan a known trace as a whole.

    Exact for messages of any size; the work grows with the losses and changes that fall into them.
    """

    def __init__(self, profile: LinkProfile, rng: random.Random) -> None:
        """Raises ValueError if ``profile`` cannot be followed here."""
        profile.check_stream()
        self.profile = profile  # the one that the bytes sent last followed
        self.medium = Medium()  # two links may share one, from before anything is sent
        self._rng = rng
        self._changes: deque[Planned] = deque()
        self._schedule: Iterator[Planned] | None = None  # what is played
        self._arrived_at = -math.inf
        self._score = 0.0  # that jitter is made of; of a standard normal
        self._clear_bytes = float(self._clear_segments() * SEGMENT_BYTES)  # before the next lost segment begins

    @property
    def free_at(self) -> float:
        """When more can be sent."""
        return self.medium.free_at

    def change(self, at: float, profile: LinkProfile) -> None:
        """Follow ``profile`` from ``at`` seconds on, and no schedule.

        Raises ValueError if it cannot be followed, or if a later one is planned.
        """
        profile.check_stream()
        if self._schedule is not None:
            self._schedule = None
            self._changes.clear()
        if self._changes and at < self._changes[-1][0]:
            raise ValueError(f"a change at {at} s, after one at {self._changes[-1][0]} s; plan them in order")
        self._changes.append((at, profile))

    def play(self, schedule: Iterable[Planned]) -> None:
        """Follow ``schedule``, changes in order, in place of what is planned; it is read as far as bytes are sent.

        So it may be long, or without end. Its last profile stays.
        """
        self._schedule = iter(schedule)
        self._changes.clear()
        self._read_on()

    def send(self, now: float, n_bytes: int) -> float:
        """When the last of ``n_bytes`` that enter at ``now`` arrives, in seconds; ``now`` never decreases."""
        medium = self.medium
        medium.sender = self
        idle = now > medium.free_at
        if idle:
            medium.free_at = now
            self._clear_bytes -= self._clear_bytes % SEGMENT_BYTES
        self._follow()
        if idle and self.profile.jitter_s:
            correlation = self.profile.jitter_correlation
            self._score *= correlation
            self._score += math.sqrt(1 - correlation**2) * self._rng.gauss(0.0, 1.0)
        left = float(n_bytes)
        while left > 1e-6:  # below it, only what floats leave over at a change
            if self._clear_bytes <= 0:
                medium.free_at += 2 * self.profile.delay_s
                self._follow()
                self._clear_bytes = float((1 + self._clear_after_loss()) * SEGMENT_BYTES)
            part = self._advance(min(left, self._clear_bytes))
            left -= part
            self._clear_bytes -= part
            self._follow()
        self._clear_bytes = float(round(self._clear_bytes))
        self._arrived_at = max(self._arrived_at, medium.free_at + self._delay_s())
        return self._arrived_at

    def _delay_s(self) -> float:
        """The delay with this burst's jitter."""
        profile = self.profile
        if not profile.jitter_s:
            return profile.delay_s
        drawn = quantile(profile.jitter_distribution, NormalDist().cdf(self._score))
        return max(0.0, profile.delay_s + profile.jitter_s * drawn)

    def _advance(self, n_bytes: float) -> float:
        """Send ``n_bytes``, or as many as go before the next change; return how many."""
        if self.profile.rate_bps is None:
            return n_bytes
        done_at = self.free_at + 8 * n_bytes / self.profile.rate_bps
        if self._changes and self._changes[0][0] < done_at:
            at = self._changes[0][0]
            n_bytes = min(n_bytes, (at - self.free_at) * self.profile.rate_bps / 8)
            done_at = at
        self.medium.free_at = done_at
        return n_bytes

    def _follow(self) -> None:
        """Take up the changes whose time the sending has reached."""
        while self._changes and self._changes[0][0] <= self.free_at:
            before, self.profile = self.profile, self._changes.popleft()[1]
            self._read_on()
            if (before.loss, before.loss_correlation) != (self.profile.loss, self.profile.loss_correlation):
                begun = self._clear_bytes % SEGMENT_BYTES  # the rest of a segment that was not lost
                self._clear_bytes = begun + self._clear_segments() * SEGMENT_BYTES

    def _read_on(self) -> None:
        """Have the next change of the schedule at hand, if there is one."""
        if self._schedule is not None:
            self._changes.extend(itertools.islice(self._schedule, 1))

    def _clear_segments(self) -> int:
        """How many segments get through before the next is lost; geometric."""
        loss = self.profile.loss * (1 - self.profile.loss_correlation)  # of one that follows one that got through
        if not loss:
            return NEVER
        return int(min(NEVER, math.log(1.0 - self._rng.random()) / math.log1p(-loss)))

    def _clear_after_loss(self) -> int:
        """The same, right behind a lost one."""
        loss, correlation = self.profile.loss, self.profile.loss_correlation
        if not correlation:
            return self._clear_segments()
        if self._rng.random() < loss + correlation * (1 - loss):
            return 0
        return 1 + self._clear_segments()
