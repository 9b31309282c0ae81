"""Clients' tasks at an edge server: computes those that the scheme says are due, returns gradients to clients here.

Each task is counted once, when it is served.
"""

from collections import deque

from nodes.federated.calls import FetchGradient, JointStep, JointSummary, ServeTask
from nodes.federated.edge.decisions import Decisions
from nodes.federated.edge.joint_step import SHARED
from nodes.federated.edge.membership import Membership
from nodes.federated.edge.round_stats import RoundStats
from nodes.federated.schemes import ClientState, RoundState
from nodes.runtime.actions import Action, Compute, Send
from nodes.wire.codec import wire_size
from nodes.wire.messages import Gradient


class Tasks:
    """Tasks of the clients of ``membership``, in the round of ``round_state``."""

    def __init__(self, decisions: Decisions, membership: Membership, round_state: RoundState, batch_size: int) -> None:
        self._decisions, self._scheme = decisions, decisions.scheme
        self._membership, self._round, self._batch_size = membership, round_state, batch_size
        self._asked: deque[ClientState | None] = deque()  # for whom the worker computes, in order; None: the server
        self._joining: list[ClientState] = []  # clients of the joint step under way

    @property
    def busy(self) -> bool:
        """Whether the worker has something to compute."""
        return bool(self._asked)

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
        if self._joining or self._scheme.is_over(self._round):
            return []
        clients = self._decisions.due(self._round)
        if not clients:
            return []
        joint = self._scheme.server_parts == "joint"
        weights = self._decisions.weights(self._round, clients) if joint else ()
        messages = tuple(self._round.tasks.pop(client) for client in clients)
        self._round.served += len(clients)
        stats.steps += len(clients)
        for client in clients:
            client.served, client.total = client.served + 1, client.total + 1
        if not joint:
            tasks = zip(clients, messages, strict=True)
            return [self.compute(ServeTask(message, client.index), client) for client, message in tasks]
        if not self._scheme.waits:
            stats.staleness += sum(self._round.staleness(client) for client in clients)
        self._round.updates += 1
        for client in clients:
            client.seen = self._round.updates
        self._joining = clients
        positions = self._scheme.averaged_positions(self._batch_size)
        return [self.compute(JointStep(messages, tuple(client.index for client in clients), weights, positions))]

    def stepped(self, summary: JointSummary, stats: RoundStats) -> list[Action]:
        """Fetch the gradient of each client of a joint step that is still here."""
        joined, self._joining = self._joining, []
        stats.updates += 1
        stats.forward_samples += summary.forward_samples
        stats.backward_samples += summary.backward_samples
        stats.backward_s += summary.backward_s
        return [self.compute(FetchGradient(client.index), client) for client in joined if self.is_here(client)]

    def send_gradient(self, client: ClientState, gradient: Gradient, stats: RoundStats) -> list[Action]:
        """Return ``gradient`` to ``client``, if it is still here."""
        if self._scheme.server_parts != "joint":
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
