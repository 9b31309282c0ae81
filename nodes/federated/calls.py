"""Computations that the roles of a federation ask for, and what workers answer beside messages."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch

from nodes.runtime.actions import Compute
from nodes.training.calls import TaskMessage
from nodes.wire.messages import (
    Activation,
    ClientModel,
    ClientUpdate,
    EdgeUpdate,
    GlobalModel,
    Gradient,
    Handover,
    Result,
)


class Answers(NamedTuple):
    """Correct answers and all answers of a test batch, by class [C]."""

    correct_by_class: torch.Tensor
    total_by_class: torch.Tensor


class Adopted(NamedTuple):
    """The worker holds the tensors that it was given."""


class JointSummary(NamedTuple):
    """Samples that a joint step took forward and backward, and the seconds of its backward pass."""

    forward_samples: float
    backward_samples: float
    backward_s: float


# A client's


class ClientWorking(Protocol):
    """Worker of a client: its part of the model on its own pictures."""

    def train(self, round_number: int, number: int) -> TaskMessage: ...

    def backward(self, message: Gradient) -> Gradient: ...

    def test(self, round_number: int, batch: int) -> TaskMessage | Answers: ...

    def answers(self, result: Result) -> Answers: ...

    def give(self, round_number: int) -> ClientUpdate: ...

    def adopt(self, model: ClientModel) -> Adopted: ...


@dataclass(frozen=True)
class TrainBatch(Compute):
    """Run training batch ``number`` of all rounds through the client's part; a Gradient if the model ends there."""

    round: int
    number: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: ClientWorking) -> TaskMessage:
        return worker.train(self.round, self.number)


@dataclass(frozen=True)
class ReturnGradient(Compute):
    """Take a gradient back through the client's part."""

    gradient: Gradient

    def run(self, worker: ClientWorking) -> Gradient:
        return worker.backward(self.gradient)


@dataclass(frozen=True)
class TestBatch(Compute):
    """Run a test batch through the client's part."""

    round: int
    batch: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: ClientWorking) -> TaskMessage | Answers:
        return worker.test(self.round, self.batch)


@dataclass(frozen=True)
class CountAnswers(Compute):
    """Compare the result of a test batch with its labels."""

    result: Result

    def run(self, worker: ClientWorking) -> Answers:
        return worker.answers(self.result)


@dataclass(frozen=True)
class GivePart(Compute):
    """Copy the client's part."""

    round: int

    def run(self, worker: ClientWorking) -> ClientUpdate:
        return worker.give(self.round)


@dataclass(frozen=True)
class AdoptPart(Compute):
    """Go on from the clients' part that the server sent."""

    model: ClientModel

    def run(self, worker: ClientWorking) -> Adopted:
        return worker.adopt(self.model)


# An edge server's


class EdgeWorking(Protocol):
    """Worker of an edge server: its part of the model, once or for each client."""

    def forward(self, message: Activation, client: int) -> TaskMessage: ...

    def joint(
        self,
        messages: tuple[Activation, ...],
        clients: tuple[int, ...],
        weights: tuple[float, ...],
        positions: int,
    ) -> JointSummary: ...

    def returned(self, client: int) -> Gradient: ...

    def aggregate(
        self,
        round_number: int,
        updates: tuple[ClientUpdate, ...],
        clients: tuple[int, ...],
        samples: tuple[int, ...],
    ) -> ClientModel: ...

    def give(self, round_number: int, samples: int, client_model: ClientModel | None) -> EdgeUpdate: ...

    def adopt(self, model: GlobalModel) -> ClientModel: ...

    def hand_over(self, round_number: int, client: int, to: str, here: bool) -> Handover: ...

    def adopt_handover(self, handover: Handover) -> Adopted: ...


@dataclass(frozen=True)
class ServeTask(Compute):
    """Run one client's task through the server's part."""

    message: Activation
    client: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: EdgeWorking) -> TaskMessage:
        return worker.forward(self.message, self.client)


@dataclass(frozen=True)
class JointStep(Compute):
    """Take one step on the tasks of several clients, weighted; ``positions`` of each batch are averaged over them."""

    messages: tuple[Activation, ...]
    clients: tuple[int, ...]
    weights: tuple[float, ...]
    positions: int

    def run(self, worker: EdgeWorking) -> JointSummary:
        return worker.joint(self.messages, self.clients, self.weights, self.positions)


@dataclass(frozen=True)
class FetchGradient(Compute):
    """Take what the last joint step returns to ``client``."""

    client: int

    def run(self, worker: EdgeWorking) -> Gradient:
        return worker.returned(self.client)


@dataclass(frozen=True)
class Aggregate(Compute):
    """Aggregate the copies of the server's part of ``clients``, and their ``updates`` if they share their parts."""

    round: int
    updates: tuple[ClientUpdate, ...]
    clients: tuple[int, ...]
    samples: tuple[int, ...]

    def run(self, worker: EdgeWorking) -> ClientModel:
        return worker.aggregate(self.round, self.updates, self.clients, self.samples)


@dataclass(frozen=True)
class GiveEdgeUpdate(Compute):
    """Copy the server's part for the cloud, beside the clients' part where it is shared."""

    round: int
    samples: int
    client_model: ClientModel | None

    def run(self, worker: EdgeWorking) -> EdgeUpdate:
        return worker.give(self.round, self.samples, self.client_model)


@dataclass(frozen=True)
class AdoptGlobal(Compute):
    """Go on from what the cloud aggregated; the clients' part of it."""

    model: GlobalModel

    def run(self, worker: EdgeWorking) -> ClientModel:
        return worker.adopt(self.model)


@dataclass(frozen=True)
class HandOver(Compute):
    """Copy what follows ``client`` to edge server ``to``, where it trains from this round on."""

    round: int
    client: int
    to: str
    here: bool

    def run(self, worker: EdgeWorking) -> Handover:
        return worker.hand_over(self.round, self.client, self.to, self.here)


@dataclass(frozen=True)
class AdoptHandover(Compute):
    """Go on from what followed a client here."""

    handover: Handover

    def run(self, worker: EdgeWorking) -> Adopted:
        return worker.adopt_handover(self.handover)


# The cloud's


class CloudWorking(Protocol):
    """Worker of the cloud."""

    def aggregate(self, updates: tuple[EdgeUpdate, ...], edges: tuple[int, ...]) -> GlobalModel: ...


@dataclass(frozen=True)
class AggregateEdges(Compute):
    """Aggregate the parts of several edge servers."""

    updates: tuple[EdgeUpdate, ...]
    edges: tuple[int, ...]

    def run(self, worker: CloudWorking) -> GlobalModel:
        return worker.aggregate(self.updates, self.edges)
