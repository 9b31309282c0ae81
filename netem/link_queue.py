"""Which bytes of a link wait, which travel, and when may more be read? Pure: the time is given."""

import random
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from netem.link import SEGMENT_BYTES, Link, LinkProfile, Planned

CHUNK_BYTES = 16 * 1024
CHUNK_S = 0.005  # slow links take smaller chunks, so that bytes come out about as evenly as packets would
# What waits for the line: enough to bridge a delay in scheduling, little enough that the sender feels the
# rate. Bytes that travel (rate x delay of them) come on top, as on a wire, so a long link does not starve.
WAITING_BYTES = 32 * 1024
WAITING_S = 0.02
HELD_BYTES = 64 * 1024 * 1024  # in all: the bound where the rate is unlimited


class Piece(NamedTuple):
    read_at: float
    data: bytes | None  # b"" is the end of the stream, None a reset
    sink: Any


class Line:
    """One direction's pieces in order: those that wait to be sent, and those that travel.

    Two that share a medium take turns while both have something to send.
    """

    def __init__(self, profile: LinkProfile, rng: random.Random) -> None:
        self.full = False
        self._link = Link(profile, rng)
        self._rival: Line | None = None
        self._waiting: deque[Piece] = deque()
        self._travelling: deque[tuple[float, Piece]] = deque()
        self._waiting_bytes = 0
        self._travelling_bytes = 0

    def share_medium(self, rival: "Line") -> None:
        """Send over one medium with ``rival``; before anything is sent."""
        self._link.medium = rival._link.medium
        self._rival, rival._rival = rival, self

    @property
    def profile(self) -> LinkProfile:
        """What the bytes sent last followed."""
        return self._link.profile

    @property
    def chunk_bytes(self) -> int:
        """How many bytes to read at once."""
        rate_bps = self.profile.rate_bps
        if rate_bps is None:
            return CHUNK_BYTES
        return int(max(SEGMENT_BYTES, min(rate_bps / 8 * CHUNK_S, CHUNK_BYTES)))

    @property
    def wake_at(self) -> float | None:
        """When ``due`` has something to do next; None if never."""
        times = [self._travelling[0][0]] if self._travelling else []
        if self._waiting:
            times.append(max(self._link.free_at, self._waiting[0].read_at))
        return min(times, default=None)

    def put(self, now: float, data: bytes | None, sink: Any) -> None:
        """Take what was read at ``now`` and belongs to ``sink``."""
        self._waiting.append(Piece(now, data, sink))
        self._waiting_bytes += len(data or b"")

    def due(self, now: float) -> list[Piece]:
        """The pieces that have arrived by ``now``, in order."""
        # A piece enters the link when the line is free for it, not before: so a change meets all that wait.
        while self._waiting and self._link.free_at <= now and self._has_turn():
            piece = self._waiting.popleft()
            size = len(piece.data or b"")
            self._travelling.append((self._link.send(piece.read_at, size), piece))
            self._waiting_bytes -= size
            self._travelling_bytes += size
        arrived = []
        while self._travelling and self._travelling[0][0] <= now:
            arrived.append(self._travelling.popleft()[1])
            self._travelling_bytes -= len(arrived[-1].data or b"")
        self.full = self._is_full()
        return arrived

    def change(self, now: float, profile: LinkProfile) -> None:
        """Follow ``profile`` from ``now`` on; the chunk being sent and those that travel keep theirs."""
        self._link.change(now, profile)

    def play(self, schedule: Iterable[Planned]) -> None:
        """Follow ``schedule`` to the bit, as it is planned. See ``Link.play``."""
        self._link.play(schedule)

    def _has_turn(self) -> bool:
        rival = self._rival
        return rival is None or not rival._waiting or self._link.medium.sender is not self._link

    def _is_full(self) -> bool:
        """Whether reading must pause; it resumes at half, so that it need not pause at every chunk."""
        share = 0.5 if self.full else 1.0
        most = max(WAITING_BYTES, (self.profile.rate_bps or 0.0) / 8 * WAITING_S)
        held = self._waiting_bytes + self._travelling_bytes
        return self._waiting_bytes >= share * most or held >= share * HELD_BYTES
