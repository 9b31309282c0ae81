"""What does an edge server note of a round, and of each client that is here?"""

import msgspec
import torch

from nodes.wire.messages import Gradient, Result, Weights


class Tally(msgspec.Struct):
    """What one round has brought so far; times by the server's clock."""

    began: float
    trained: float = 0.0  # when its last step was taken
    averaged: float = 0.0  # when the clients could go on
    participants: int = 0
    steps: int = 0  # of the clients, that were served
    updates: int = 0  # of the server's part
    noted: int = 0  # of these steps, those of which the loss is known
    loss: float = 0.0  # their sum; as are the next two
    correct: float = 0.0
    count: float = 0.0
    up_bytes: int = 0  # whole frames of training
    down_bytes: int = 0
    moved_bytes: int = 0  # whole frames that came after clients from their last servers
    shared_bytes: int = 0  # of those down, payload that is the same for all clients and need be sent once only
    forward_samples: float = 0.0
    backward_samples: float = 0.0
    backward_s: float = 0.0
    staleness: int = 0  # summed over the steps
    right: torch.Tensor | None = None
    tested: torch.Tensor | None = None

    def note(self, told: Result | Gradient) -> None:
        """Add what a client told of its training or of its tests, or what came of one step."""
        if "tested" in told.tensors:
            right, tested = told.tensors["right"], told.tensors["tested"]
            self.right = right if self.right is None else self.right + right
            self.tested = tested if self.tested is None else self.tested + tested
        for name in ("loss", "correct", "count"):
            setattr(self, name, getattr(self, name) + told.metrics.get(name, 0.0))

    def told(self, number: int, edge: int, now: float) -> Result:
        """What the runner is told of round ``number`` at server ``edge``."""
        numbers = {
            name: float(value) for name, value in msgspec.structs.asdict(self).items() if isinstance(value, int | float)
        }
        tensors = {"right": self.right, "tested": self.tested}
        return Result(
            assignment=number,
            step=edge,
            metrics={**numbers, "round": float(number), "edge": float(edge), "ended": now},
            tensors={name: tensor for name, tensor in tensors.items() if tensor is not None},
        )


class ClientState(msgspec.Struct, eq=False):
    """A client that is here; one that comes back is another member."""

    name: str
    index: int
    samples: int
    served: int = 0  # steps of this round
    reported: bool = False  # of this round's training, or tests
    total: int = 0  # steps of all rounds
    holds: Weights | None = None  # the clients' part that it was given last, or gave
    current: bool = False  # it came with the part that its last server shared
