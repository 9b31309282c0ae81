"""What rate does a link have, by the transfers over it? Pure: what each took is given.

A receiver alone can tell: once a frame's first segment is there, the rest comes at the link's rate, and neither the
delay nor the sender's clock is part of that. HiveMind takes the rate as known (section IV-F: from the base station);
measuring it is ours. The median of the last transfers is taken: what held up a few of them does not count, and a
new rate is believed once more than half of them have seen it. A link that carries nothing tells nothing, so what it
told is forgotten in time; or one that was slow once would never be tried again.
"""

from collections import deque
from math import inf
from statistics import median

LEAST_BYTES = 4096  # fewer tell more of when a node was scheduled than of the link; assumed


class LinkRate:
    """The rate by the last ``transfers``, each forgotten after ``remember_s``."""

    def __init__(self, transfers: int, remember_s: float = inf) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=transfers)  # when, and the rate
        self._remember_s = remember_s

    def observe(self, wire_bytes: float, wire_s: float, now: float) -> None:
        """Until ``now`` so many bytes came in so long, those of the first segment not counted."""
        if wire_bytes >= LEAST_BYTES and wire_s > 0:
            self._seen.append((now, 8 * wire_bytes / wire_s))

    def forget(self) -> None:
        """Start anew."""
        self._seen.clear()

    def rate_bps(self, now: float) -> float | None:
        """The estimate; None where nothing is remembered."""
        while self._seen and now - self._seen[0][0] > self._remember_s:
            self._seen.popleft()
        return median(rate for _, rate in self._seen) if self._seen else None
