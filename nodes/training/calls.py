"""Computations that the roles of split training ask for, and what workers answer beside messages."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from nodes.runtime.actions import Compute
from nodes.wire.messages import Activation, Gradient, Parameters, Result, SplitChange

TaskMessage = Activation | Gradient | Result  # a batch on its way, or what came of it where the model ends


class Score(NamedTuple):
    """Correct answers and samples of test batch ``step``, computed by ``member`` of a family (0: what is trained)."""

    step: int
    member: int
    correct: float
    samples: float


class Settled(NamedTuple):
    """The layers of a split change are where they belong."""


class SegmentWorker(Protocol):
    """Worker of a node: its part of the model."""

    def forward(self, message: Activation) -> TaskMessage: ...

    def backward(self, message: Gradient) -> Gradient: ...


class SourceWorker(Protocol):
    """Worker of the UE: its part of the model on batches of its data."""

    def train(self, epoch: int, batch: int, microbatch: int, save: int | None) -> TaskMessage: ...

    def test(self, batch: int, member: int) -> TaskMessage | Score: ...

    def score(self, result: Result) -> Score: ...

    def backward(self, message: Gradient) -> Gradient: ...


class LayerWorker(Protocol):
    """Worker of a node whose layers move."""

    def give(self, assignment: int, start: int, stop: int) -> Parameters: ...

    def settle(self, change: SplitChange, parameters: tuple[Parameters, ...]) -> Settled: ...


@dataclass(frozen=True)
class Train(Compute):
    """Run a microbatch of training batch ``batch`` of ``epoch`` through the UE's part."""

    epoch: int
    batch: int
    microbatch: int
    save: int | None = None
    runs_forward: ClassVar[bool] = True

    def run(self, worker: SourceWorker) -> TaskMessage:
        return worker.train(self.epoch, self.batch, self.microbatch, self.save)


@dataclass(frozen=True)
class Infer(Compute):
    """Run a test batch through the UE's part of ``member`` of the family."""

    batch: int
    member: int = 0
    runs_forward: ClassVar[bool] = True

    def run(self, worker: SourceWorker) -> TaskMessage | Score:
        return worker.test(self.batch, self.member)


@dataclass(frozen=True)
class Evaluate(Compute):
    """Compare the result of a test batch with its labels."""

    result: Result

    def run(self, worker: SourceWorker) -> Score:
        return worker.score(self.result)


@dataclass(frozen=True)
class Forward(Compute):
    """Run a batch through the node's part."""

    message: Activation
    runs_forward: ClassVar[bool] = True

    def run(self, worker: SegmentWorker) -> TaskMessage:
        return worker.forward(self.message)


@dataclass(frozen=True)
class Backward(Compute):
    """Take a gradient back through the node's part."""

    gradient: Gradient

    def run(self, worker: SegmentWorker) -> Gradient:
        return worker.backward(self.gradient)


@dataclass(frozen=True)
class Give(Compute):
    """Take the state of layers ``start`` to ``stop`` out of the node's part."""

    assignment: int
    start: int
    stop: int

    def run(self, worker: LayerWorker) -> Parameters:
        return worker.give(self.assignment, self.start, self.stop)


@dataclass(frozen=True)
class Settle(Compute):
    """Hold the layers that ``change`` says, with the ``parameters`` of those that came."""

    change: SplitChange
    parameters: tuple[Parameters, ...]

    def run(self, worker: LayerWorker) -> Settled:
        return worker.settle(self.change, self.parameters)
