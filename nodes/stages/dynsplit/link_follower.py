"""Share of samples for the expensive path that follows the rate of the link, slot by slot. Beyond DynSplit's paper.

The samples of each slot take the expensive path as far as their bytes and those queued fit into what earlier slots
carried.
"""

from typing import NamedTuple


class PathBytes(NamedTuple):
    """Bytes of a sample on the cheap and on the expensive path."""

    cheap: float
    dear: float

    def share(self, bytes_per_sample: float) -> float:
        """The largest share of samples on the expensive path with a mean of at most ``bytes_per_sample``; 0 to 1."""
        if self.dear <= self.cheap:
            return 1.0
        return min(1.0, max(0.0, (bytes_per_sample - self.cheap) / (self.dear - self.cheap)))


class Follower(NamedTuple):
    """State before a slot: bytes queued, the estimate of bytes that a slot carries, and its mean absolute error."""

    waiting: float
    carried: float
    error: float = 0.0

    def share(self, costs: PathBytes, samples: int, caution: float = 0.0, headroom: float = 0.9) -> float:
        """Share of the next ``samples`` for the expensive path: ``headroom`` of the bytes less ``caution`` errors."""
        room = headroom * (self.carried - caution * self.error) - self.waiting
        return costs.share(max(0.0, room) / max(1, samples))

    def after(self, sent: float, capacity: float, weight: float = 0.5) -> "Follower":
        """The state after ``sent`` bytes were queued for a slot that could carry ``capacity`` bytes."""
        return Follower(
            max(0.0, self.waiting + sent - capacity),
            (1 - weight) * self.carried + weight * capacity,
            (1 - weight) * self.error + weight * abs(capacity - self.carried),
        )
