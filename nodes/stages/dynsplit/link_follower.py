"""How much may go over the dear path now? The share that a link's rate leaves room for, slot by slot.

DynSplit's introduction promises to adapt to the network; its ratio is fixed in training. Here it follows the link:
in each slot of time so many samples may take the dear path that their bytes, with what still waits, fit under what
the link carried in the slots before. Beyond the paper.
"""

from typing import NamedTuple


class PathBytes(NamedTuple):
    """Bytes of a sample on the cheap and on the dear path."""

    cheap: float
    dear: float

    def share(self, bytes_per_sample: float) -> float:
        """The largest share of samples on the dear path that keeps to ``bytes_per_sample`` in the mean; 0 to 1."""
        if self.dear <= self.cheap:
            return 1.0
        return min(1.0, max(0.0, (bytes_per_sample - self.cheap) / (self.dear - self.cheap)))


class Follower(NamedTuple):
    """What is known of the link before a slot: the bytes that wait, an estimate of the bytes a slot carries, and how
    far it was off in the mean."""

    waiting: float
    carried: float
    error: float = 0.0

    def share(self, costs: PathBytes, samples: int, caution: float = 0.0, headroom: float = 0.9) -> float:
        """The share of the next ``samples`` for the dear path: ``headroom`` of what the slot is thought to carry.

        With ``caution`` that is so many mean errors below the estimate.
        """
        room = headroom * (self.carried - caution * self.error) - self.waiting
        return costs.share(max(0.0, room) / max(1, samples))

    def after(self, sent: float, capacity: float, weight: float = 0.5) -> "Follower":
        """Once ``sent`` bytes were handed to a slot that had room for ``capacity``, which is now known."""
        return Follower(
            max(0.0, self.waiting + sent - capacity),
            (1 - weight) * self.carried + weight * capacity,
            (1 - weight) * self.error + weight * abs(capacity - self.carried),
        )
