"""What an edge server counts in a round."""

import msgspec
import torch

from nodes.wire.messages import Gradient, RoundReport, RoundTested, RoundTrained


class RoundStats(msgspec.Struct):
    """Counts of one round; times by the server's clock."""

    began: float
    trained: float = 0.0  # when its last step was taken
    averaged: float = 0.0  # when the clients could go on
    participants: int = 0
    steps: int = 0  # of the clients, that were served
    updates: int = 0  # of the server's part
    steps_with_loss: int = 0  # of these steps, those whose loss is known
    loss: float = 0.0  # their sum; as are the next two
    correct: float = 0.0
    count: float = 0.0
    uplink_bytes: int = 0  # whole frames of training
    downlink_bytes: int = 0
    moved_bytes: int = 0  # whole frames that followed clients from their last servers
    shared_bytes: int = 0  # downlink payload that is the same for all clients and need be sent once only
    forward_samples: float = 0.0
    backward_samples: float = 0.0
    backward_s: float = 0.0
    staleness: int = 0  # summed over the steps
    correct_by_class: torch.Tensor | None = None
    total_by_class: torch.Tensor | None = None

    def add_trained(self, trained: RoundTrained, steps: int) -> None:
        """Count a client's ``steps`` of training."""
        self.steps_with_loss += steps
        self.loss += trained.loss
        self.correct += trained.correct
        self.count += trained.count

    def add_step(self, gradient: Gradient) -> None:
        """Count one step by what returned of it."""
        self.steps_with_loss += 1
        for name in ("loss", "correct", "count"):
            setattr(self, name, getattr(self, name) + gradient.metrics.get(name, 0.0))

    def add_tested(self, tested: RoundTested) -> None:
        """Count a client's answers."""
        correct, total = tested.correct_by_class, tested.total_by_class
        self.correct_by_class = correct if self.correct_by_class is None else self.correct_by_class + correct
        self.total_by_class = total if self.total_by_class is None else self.total_by_class + total

    def report(self, round_number: int, edge: int, now: float) -> RoundReport:
        """Report of the round to the runner."""
        metrics = {name: float(value) for name, value in msgspec.structs.asdict(self).items() if _is_number(value)}
        return RoundReport(
            round=round_number,
            edge=edge,
            metrics={**metrics, "ended": now},
            correct_by_class=self.correct_by_class,
            total_by_class=self.total_by_class,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
