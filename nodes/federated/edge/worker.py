"""Worker of an edge server: its part of the network, once or for each client, and aggregation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from nodes.errors import ProtocolError
from nodes.federated.aggregation import Aggregation
from nodes.federated.client_worker import Adopted, job_of
from nodes.federated.edge.joint_step import JointReply, JointSegment
from nodes.federated.edge.returning import JointStart, ReturningSegment
from nodes.federated.schemes import Update, scheme_of
from nodes.federated.shared_state import BatchNorm, adopt_shared, shared_state
from nodes.model.boundary import Tensors
from nodes.model.layer_range import layer_range
from nodes.runtime.actions import Compute
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.training.keeping.state import load_segment_state, plain_attributes, segment_state, set_attributes
from nodes.training.segment import TaskMessage
from nodes.wire.messages import (
    Activation,
    ClientModel,
    EdgeUpdate,
    GlobalModel,
    Gradient,
    Handover,
)


class EdgeWorker:
    """The worker of edge server ``edge``. Where clients have the whole network it aggregates and no more.

    Copies are made at the start for all clients that ever come here.
    """

    def __init__(self, federation: Federation, edge: int) -> None:
        scheme = self._scheme = scheme_of(federation)
        self._job = _job_of_server(federation)
        self._segments: dict[int, JointSegment] = {}  # by client; all the same one, but for copies
        self._round = 0
        self._aggregate_clients = Aggregation(federation, scheme, "aggregate_clients", 0)
        self._aggregate_servers = Aggregation(federation, scheme, "aggregate_servers", 1)
        self._copies, self._shares = scheme.server_parts == "copies", scheme.client_parts == "aggregated"
        if scheme.server_parts != "none":
            self._segments = self._parts(federation.visitors(edge), self._copies)
        self._batch_norm: BatchNorm = federation.batch_norm if self._copies else "shared"
        self._distinct = list({id(segment): segment for segment in self._segments.values()}.values())
        self.layers = len(self._distinct[0].names) if self._distinct else 0
        if self._distinct and layer_range(self._job.cuts, 1, self._distinct[0].layers).relays:
            raise ValueError(
                f"scheme {federation.scheme.name}: all layers are the clients', none is left for the server"
            )

    def _parts(self, clients: Sequence[int], copies: bool) -> dict[int, JointSegment]:
        """The part that takes each client's tasks: one for all of them, or copies."""
        kind = JointSegment if self._job.tail is None else ReturningSegment
        if copies:
            return {client: kind(self._job, 1) for client in clients}
        return dict.fromkeys(clients, kind(self._job, 1, scheme=self._scheme))

    @property
    def steps(self) -> int:
        """How many steps its optimizers have taken."""
        return sum(segment.steps for segment in self._distinct)

    def forward(self, message: Activation, client: int) -> TaskMessage:
        """Run one client's task through the server's part."""
        self._begin(message.assignment)
        return self._segments[client].forward(message)

    def backward(self, message: Gradient, client: int) -> Gradient:
        """Take the gradient of one client's last layers back through the server's part."""
        return self._segments[client].backward(message)

    def start_joint(self, messages: Sequence[Activation], positions: int) -> JointStart:
        """Run the tasks of several clients as one batch, whose results return to them."""
        self._begin(messages[0].assignment)
        return self._returning.start_joint(messages, positions)

    def end_joint(self, messages: Sequence[Gradient], weights: Sequence[float], positions: int) -> JointReply:
        """Take one step on the gradients of these clients' last layers, weighted."""
        return self._returning.end_joint(messages, weights, positions)

    @property
    def _returning(self) -> ReturningSegment:
        part = self._distinct[0]
        assert isinstance(part, ReturningSegment)
        return part

    def joint(self, messages: Sequence[Activation], weights: Sequence[float], positions: int) -> JointReply:
        """Take one step on the tasks of several clients, weighted."""
        self._begin(messages[0].assignment)
        return self._distinct[0].joint(messages, weights, positions)

    def aggregate(self, round_number: int, trained: Sequence[Update]) -> ClientModel:
        """Aggregate the copies of the server's part of clients that ``trained``, and their parts if they share them.

        Raises NodeError.
        """
        if self._copies:
            copies = [
                one._replace(state=shared_state([self._segments[one.client]], self._batch_norm)) for one in trained
            ]
            self._adopt(self._aggregate_servers(copies))
        return ClientModel(round=round_number, tensors=self._aggregate_clients(trained) if self._shares else {})

    def give(self, update: EdgeUpdate) -> EdgeUpdate:
        """Put the server's part into ``update`` of the cloud, if it was trained.

        Of copies it is what they were averaged to last: a copy that came since, or was left in a round, is not.
        """
        if not self._distinct or not update.samples:
            return update
        averaged = self._aggregate_servers.last if self._copies else None
        return msgspec.structs.replace(update, server=averaged or shared_state(self._distinct[:1], self._batch_norm))

    def adopt(self, model: GlobalModel) -> ClientModel:
        """Go on from what the cloud aggregated, if anything; the clients' part of it."""
        if self._distinct and (model.server or model.client):
            self._adopt(model.server)
            self._aggregate_servers.last = model.server
        self._aggregate_clients.last = model.client or self._aggregate_clients.last
        return ClientModel(round=model.round, tensors=model.client)

    def hand_over(self, handover: Handover) -> Handover:
        """Put into ``handover`` what follows its client to another edge server: its copy, if any."""
        if not self._copies:
            return handover
        return msgspec.structs.replace(handover, tensors=self._segments[handover.client].training_state())

    def adopt_handover(self, handover: Handover) -> Adopted:
        """Go on from the copy that followed a client. Raises ProtocolError if it does not fit."""
        if self._copies:
            self._segments[handover.client].load_training_state(handover.tensors)
        elif handover.tensors:
            raise ProtocolError(
                f"client {handover.client}: unexpected tensors in the handover: {sorted(handover.tensors)[:3]} "
                "(the scheme keeps no server copy for each client)"
            )
        return Adopted()

    def everything(self) -> dict[str, Any]:
        """All that ``go_on`` needs."""
        return {
            "segments": [segment_state(segment) for segment in self._distinct],
            "round": self._round,
            "averages": [self._aggregate_clients.last, self._aggregate_servers.last],
            "scheme": plain_attributes(self._scheme),
        }

    def go_on(self, saved: dict[str, Any]) -> None:
        """Continue from ``everything`` of the worker of the same edge server."""
        for segment, state in zip(self._distinct, saved["segments"], strict=True):
            load_segment_state(segment, state)
        self._round = saved["round"]
        self._aggregate_clients.last, self._aggregate_servers.last = saved["averages"]
        set_attributes(self._scheme, saved["scheme"])

    def _adopt(self, tensors: Tensors) -> None:
        for segment in self._distinct:
            adopt_shared([segment], tensors, self._batch_norm)

    def _begin(self, round_number: int) -> None:
        if round_number > self._round:  # clients that do not wait for each other may be in earlier ones
            self._round = round_number
            for segment in self._distinct:
                segment.begin_epoch(round_number)


def _job_of_server(federation: Federation) -> Job:
    """The job as the server's part needs it, with a learning rate of its own if the federation has one."""
    job = job_of(federation)
    if federation.server_lr is None:
        return job
    optimizer = msgspec.structs.replace(job.optimizer, lr=federation.server_lr)
    return msgspec.structs.replace(job, optimizer=optimizer)


@dataclass(frozen=True)
class ServeTask(Compute):
    """Run one client's task through the server's part."""

    message: Activation
    client: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: EdgeWorker) -> TaskMessage:
        return worker.forward(self.message, self.client)


@dataclass(frozen=True)
class JointStep(Compute):
    """Take one step on the tasks of several clients, weighted; ``positions`` of each batch are averaged over them."""

    messages: tuple[Activation, ...]
    weights: tuple[float, ...]
    positions: int

    def run(self, worker: EdgeWorker) -> JointReply:
        return worker.joint(self.messages, self.weights, self.positions)


@dataclass(frozen=True)
class ServeGradient(Compute):
    """Take the gradient of one client's last layers back through the server's part."""

    gradient: Gradient
    client: int

    def run(self, worker: EdgeWorker) -> Gradient:
        return worker.backward(self.gradient, self.client)


@dataclass(frozen=True)
class StartJoint(Compute):
    """Run the tasks of several clients as one batch, whose results return to them."""

    messages: tuple[Activation, ...]
    positions: int

    def run(self, worker: EdgeWorker) -> JointStart:
        return worker.start_joint(self.messages, self.positions)


@dataclass(frozen=True)
class EndJoint(Compute):
    """Take one step on the gradients of clients' last layers, weighted."""

    gradients: tuple[Gradient, ...]
    weights: tuple[float, ...]
    positions: int

    def run(self, worker: EdgeWorker) -> JointReply:
        return worker.end_joint(self.gradients, self.weights, self.positions)


@dataclass(frozen=True)
class Aggregate(Compute):
    """Aggregate the copies of the server's part of clients, and their parts if they share them."""

    round: int
    trained: tuple[Update, ...]

    def run(self, worker: EdgeWorker) -> ClientModel:
        return worker.aggregate(self.round, self.trained)


@dataclass(frozen=True)
class GiveEdgeUpdate(Compute):
    """Copy the server's part for the cloud, into ``update`` with the clients' part where it is shared."""

    update: EdgeUpdate

    def run(self, worker: EdgeWorker) -> EdgeUpdate:
        return worker.give(self.update)


@dataclass(frozen=True)
class AdoptGlobal(Compute):
    """Go on from what the cloud aggregated; the clients' part of it."""

    model: GlobalModel

    def run(self, worker: EdgeWorker) -> ClientModel:
        return worker.adopt(self.model)


@dataclass(frozen=True)
class HandOver(Compute):
    """Copy what follows a client to another edge server, into ``handover``."""

    handover: Handover

    def run(self, worker: EdgeWorker) -> Handover:
        return worker.hand_over(self.handover)


@dataclass(frozen=True)
class AdoptHandover(Compute):
    """Go on from what followed a client here."""

    handover: Handover

    def run(self, worker: EdgeWorker) -> Adopted:
        return worker.adopt_handover(self.handover)
