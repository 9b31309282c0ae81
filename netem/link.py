"""What does a link do? Its profile and, given the time, when bytes that enter it come out. Pure: no clock."""

import math
import random
from collections import deque

import msgspec

SEGMENT_BYTES = 1448  # what TCP puts into a 1,500-byte packet; the unit of loss
NEVER = 1 << 40  # segments to the next loss where there is none; a float holds as many bytes exactly


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One direction of a link.

    ``rate_bps`` is None for an unlimited rate. ``delay_s`` is one way; ``jitter_s`` is the standard deviation
    of a normal added to it (never below zero, never reordering). ``loss`` is the probability that a
    1,448-byte segment is lost; a loss delays all behind it by one round trip, and the rate stays.
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if self.rate_bps is not None and not self.rate_bps > 0:
            raise ValueError(f"rate_bps must be above 0, got {self.rate_bps}")
        if self.delay_s < 0 or self.jitter_s < 0:
            raise ValueError("delay_s and jitter_s must not be negative")
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss must be in [0, 1), got {self.loss}")

    @property
    def unlimited(self) -> bool:
        """True if traffic passes unchanged, so that no emulator needs to stand in its way."""
        return self == LinkProfile()


class Link:
    """One direction of a link: told when bytes enter, it says when they have arrived.

    Bytes are sent one after the other at the profile's rate, then travel for its delay. The token bucket has
    no store, as with netem's ``rate``: one that does would hide the sending time of small messages.

    - Loss: a lost segment, and all behind it, is sent one round trip (twice this direction's delay) later;
      what is sent again arrives. A segment ends after 1,448 bytes or where the line falls idle.
    - Jitter: one draw for all bytes sent back to back, so a message arrives at the same time whether it
      enters whole or in chunks; an idle line draws anew. Nothing overtakes: arrival times never decrease.
    - Change: a profile is followed from its time on, by every bit not yet sent then. It must be planned
      before the bytes enter, for a time that ``send`` has told stays; plan a known trace as a whole.

    Exact for messages of any size; the work grows with the losses and changes that fall into them.
    """

    def __init__(self, profile: LinkProfile, rng: random.Random) -> None:
        self.profile = profile  # the one that the bytes sent last followed
        self.free_at = -math.inf  # when all that entered is sent; it may still travel
        self._rng = rng
        self._changes: deque[tuple[float, LinkProfile]] = deque()
        self._arrived_at = -math.inf
        self._jitter = 0.0  # in standard deviations
        self._clear_bytes = float(self._clear_segments() * SEGMENT_BYTES)  # before the next lost segment begins

    def change(self, at: float, profile: LinkProfile) -> None:
        """Follow ``profile`` from ``at`` seconds on. Raises ValueError if a later one is planned."""
        if self._changes and at < self._changes[-1][0]:
            raise ValueError(f"a change at {at} s, after one at {self._changes[-1][0]} s; plan them in order")
        self._changes.append((at, profile))

    def send(self, now: float, n_bytes: int) -> float:
        """When the last of ``n_bytes`` that enter at ``now`` arrives, in seconds; ``now`` never decreases."""
        if now > self.free_at:
            self.free_at = now
            self._clear_bytes -= self._clear_bytes % SEGMENT_BYTES
            self._jitter = self._rng.gauss(0.0, 1.0)
        self._follow()
        left = float(n_bytes)
        while left > 1e-6:  # below it, only what floats leave over at a change
            if self._clear_bytes <= 0:
                self.free_at += 2 * self.profile.delay_s
                self._follow()
                self._clear_bytes = float((1 + self._clear_segments()) * SEGMENT_BYTES)
            part = self._advance(min(left, self._clear_bytes))
            left -= part
            self._clear_bytes -= part
            self._follow()
        self._clear_bytes = float(round(self._clear_bytes))
        delay_s = max(0.0, self.profile.delay_s + self._jitter * self.profile.jitter_s)
        self._arrived_at = max(self._arrived_at, self.free_at + delay_s)
        return self._arrived_at

    def _advance(self, n_bytes: float) -> float:
        """Send ``n_bytes``, or as many as go before the next change; return how many."""
        if self.profile.rate_bps is None:
            return n_bytes
        done_at = self.free_at + 8 * n_bytes / self.profile.rate_bps
        if self._changes and self._changes[0][0] < done_at:
            at = self._changes[0][0]
            n_bytes = min(n_bytes, (at - self.free_at) * self.profile.rate_bps / 8)
            done_at = at
        self.free_at = done_at
        return n_bytes

    def _follow(self) -> None:
        """Take up the changes whose time the sending has reached."""
        while self._changes and self._changes[0][0] <= self.free_at:
            before, self.profile = self.profile, self._changes.popleft()[1]
            if before.loss != self.profile.loss:
                begun = self._clear_bytes % SEGMENT_BYTES  # the rest of a segment that was not lost
                self._clear_bytes = begun + self._clear_segments() * SEGMENT_BYTES

    def _clear_segments(self) -> int:
        """How many segments get through before the next is lost; geometric, as losses are independent."""
        if not self.profile.loss:
            return NEVER
        return int(min(NEVER, math.log(1.0 - self._rng.random()) / math.log1p(-self.profile.loss)))
