"""Clients' tasks at an edge server: computes those that the scheme says are due, returns gradients to clients here.

Each task is counted once, when it is served.
"""

import math
from collections import deque

import msgspec
import torch

from nodes.errors import ProtocolError, unexpected
from nodes.federated.client_segment import SHARED
from nodes.federated.edge.joint_step import JointReply
from nodes.federated.edge.membership import Membership
from nodes.federated.edge.returning import JointStart
from nodes.federated.edge.worker import EndJoint, JointStep, ServeGradient, ServeTask, StartJoint
from nodes.federated.schemes import ClientState, RoundState
from nodes.federated.schemes.base import Decisions
from nodes.runtime.actions import Action, Compute, Send
from nodes.spec.job import Job
from nodes.wire.codec import wire_size
from nodes.wire.messages import Activation, Gradient, Result, RoundReport, RoundTested, RoundTrained


class RoundStats(msgspec.Struct):
    """Counts of one round; times by the server's clock."""

    began: float
    trained: float = 0.0  # when its last step was taken
    averaged: float = 0.0  # when the clients could go on
    participants: int = 0
    late: int = 0  # of them, that the round went on without
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

    @property
    def diverged(self) -> bool:
        """Whether the loss is no number."""
        return not math.isfinite(self.loss)

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
        """Count a client's answers. Raises ProtocolError for others than numbers of the same classes."""
        correct, total = tested.correct_by_class, tested.total_by_class
        like = total if self.total_by_class is None else self.total_by_class
        if any((one.shape, one.dtype) != (like.shape, like.dtype) for one in (correct, total)) or like.ndim != 1:
            raise ProtocolError(f"answers by class: got {list(correct.shape)} of {list(total.shape)}")
        self.correct_by_class = correct if self.correct_by_class is None else self.correct_by_class + correct
        self.total_by_class = total if self.total_by_class is None else self.total_by_class + total

    def report(self, round_number: int, edge: int, now: float) -> RoundReport:
        """Report of the round to the runner."""
        metrics = {
            name: float(value) for name, value in msgspec.structs.asdict(self).items() if isinstance(value, int | float)
        }
        return RoundReport(
            round=round_number,
            edge=edge,
            metrics={**metrics, "ended": now},
            correct_by_class=self.correct_by_class,
            total_by_class=self.total_by_class,
        )


class Tasks:
    """Tasks of the clients of ``membership``, in the round of ``round_state``."""

    def __init__(self, decisions: Decisions, membership: Membership, round_state: RoundState, job: Job) -> None:
        self._decisions, self._scheme = decisions, decisions.scheme
        self._membership, self._round, self._batch_size = membership, round_state, job.batch_size
        self._returns = job.tail is not None  # tasks return to the clients, which send gradients for them
        self._gradients: dict[ClientState, Gradient] = {}  # of the joint step under way
        self._weights: dict[ClientState, float] = {}
        self._step_round = 0  # of the step under way
        self._awaiting = False  # of its clients, gradients of their last layers
        self._asked: deque[ClientState | None] = deque()  # for whom the worker computes, in order; None: the server
        self._joining: list[ClientState] = []  # clients of the step under way, which the next one waits for

    @property
    def busy(self) -> bool:
        """Whether the worker has something to compute."""
        return bool(self._asked)

    @property
    def served(self) -> list[ClientState]:
        """The clients whose tasks the worker computes or has still to compute."""
        return [*self._joining, *(client for client in self._asked if client)]

    def compute(self, call: Compute, client: ClientState | None = None) -> Compute:
        """Note that the next reply of the worker but those before is that of ``call``."""
        self._asked.append(client)
        return call

    def answered(self) -> ClientState | None:
        """The client for whom the worker's present reply is; None for the server itself."""
        return self._asked.popleft()

    def is_here(self, client: ClientState) -> bool:
        """Whether ``client`` has neither left nor returned anew."""
        return self._membership.members.get(client.name) is client

    def serve(self, stats: RoundStats) -> list[Action]:
        """Compute the tasks that are due."""
        if self._awaiting and (ending := self._end_step()):
            return ending
        if self._joining or self._scheme.is_over(self._round):
            return []
        clients = self._decisions.due(self._round)
        if not clients:
            return []
        joint = self._scheme.server_parts == "joint"
        weights = self._decisions.weights(self._round, clients) if joint else ()
        if self._returns and self._scheme.server_parts == "one":
            clients = clients[:1]  # until its gradient has come: a step changes the part
        messages = tuple(self._round.tasks.pop(client) for client in clients)
        self._round.served += len(clients)
        stats.steps += len(clients)
        for client in clients:
            client.served, client.total = client.served + 1, client.total + 1
        if self._returns and self._scheme.server_parts != "copies":
            self._joining, self._step_round, self._awaiting = clients, self._round.number, not joint
        if not joint:
            tasks = zip(clients, messages, strict=True)
            return [self.compute(ServeTask(message, client.index), client) for client, message in tasks]
        if not self._scheme.waits:
            stats.staleness += sum(self._round.staleness(client) for client in clients)
        self._round.updates += 1
        for client in clients:
            client.seen = self._round.updates
        self._joining = clients
        if self._returns:
            self._weights, self._gradients = dict(zip(clients, weights, strict=True)), {}
            return [self.compute(StartJoint(messages, self._positions))]
        return [self.compute(JointStep(messages, weights, self._positions))]

    @property
    def _positions(self) -> int:
        return self._scheme.averaged_positions(self._batch_size)

    def take(self, client: ClientState, message: Activation | Gradient) -> list[Action]:
        """Take up a client's task, or the gradient of its last layers. Raises ProtocolError for one not asked for."""
        if isinstance(message, Activation):
            self._round.tasks[client] = message
        elif not self._returns:
            raise unexpected(message, client.name)
        elif self._scheme.server_parts != "joint":
            return [self.compute(ServeGradient(message, client.index), client)]
        else:
            self._gradients[client] = message
        return []

    def _end_step(self) -> list[Action]:
        """End the step that awaits gradients; clients that have left, or are in a later round, send none."""
        current = self._step_round == self._round.number
        left = [client for client in self._joining if current and self.is_here(client)]
        joint = self._scheme.server_parts == "joint"
        if not left or not joint or not self._gradients.keys() >= set(left):
            self._joining, self._awaiting = left, bool(left)
            return []
        self._joining, self._awaiting = left, False
        gradients = tuple(self._gradients[client] for client in left)
        weights = tuple(self._weights[client] for client in left)
        return [self.compute(EndJoint(gradients, weights, self._positions))]

    def stepped(self, reply: JointReply | JointStart, stats: RoundStats) -> list[Action]:
        """Return the gradients of a joint step or, for the clients' last layers, what its first half has made."""
        if isinstance(reply, JointStart):
            self._awaiting = True
            pairs = zip(self._joining, reply.activations, strict=True)
            return [action for client, one in pairs for action in self.send_on(client, one, stats)]
        joined, self._joining = self._joining, []
        stats.updates += 1
        stats.forward_samples += reply.forward_samples
        stats.backward_samples += reply.backward_samples
        stats.backward_s += reply.backward_s
        returned = zip(joined, reply.gradients, strict=True)
        return [action for client, gradient in returned for action in self.send_gradient(client, gradient, stats)]

    def send_on(self, client: ClientState, reply: Activation | Result, stats: RoundStats) -> list[Action]:
        """Send ``client`` what the server's part has made of its batch, if it is still here."""
        if not self.is_here(client):
            return []
        if isinstance(reply, Activation) and reply.train:
            stats.downlink_bytes += sum(wire_size(reply))
        return [Send(client.name, reply)]

    def send_gradient(self, client: ClientState, gradient: Gradient, stats: RoundStats) -> list[Action]:
        """Return ``gradient`` to ``client``, if it is still here."""
        if self._scheme.server_parts != "joint":
            self._joining = [one for one in self._joining if one is not client]
            stats.updates += 1
            stats.forward_samples += gradient.metrics["count"]
            stats.backward_samples += gradient.metrics["count"]
        if not self._scheme.waits:  # a client's report of several steps may come rounds later, or never
            stats.add_step(gradient)
        if not self.is_here(client):
            return []
        stats.downlink_bytes += sum(wire_size(gradient))
        stats.shared_bytes += sum(tensor.nbytes for key, tensor in gradient.tensors.items() if key.startswith(SHARED))
        return [Send(client.name, gradient)]
