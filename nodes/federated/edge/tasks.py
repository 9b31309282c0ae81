"""Clients' tasks at an edge server: schedules them by scheme and client index, returns gradients to clients here.

Each task is counted once, when it is served.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from nodes.federated.calls import FetchGradient, JointStep, JointSummary, ServeTask
from nodes.federated.edge.joint_step import SHARED
from nodes.federated.edge.membership import Membership
from nodes.federated.edge.round_stats import ClientState, RoundStats
from nodes.federated.formulas import aggregated, shares
from nodes.runtime.actions import Action, Compute, Role, Send
from nodes.spec.federation import Federation
from nodes.spec.schemes import Scheme
from nodes.wire.codec import wire_size
from nodes.wire.messages import Activation, Gradient


class EdgeTasks(Role):
    """Tasks of edge server number ``edge`` of ``federation``; its rounds are those of ``EdgeServer``."""

    def __init__(self, federation: Federation, edge: int) -> None:
        self._federation, self._rules = federation, federation.rules
        self._edge = edge
        self._membership = Membership(federation, edge)
        self._steps = federation.local_steps or 0
        self._waiting: dict[str, Activation] = {}
        self._asked: deque[ClientState | None] = deque()  # for whom compute works, in order; None for the server itself
        self._joining: list[ClientState] = []  # whose tasks the joint step under way is of
        self._stats = RoundStats(began=0.0)

    def _compute(self, call: Compute, member: ClientState | None = None) -> Compute:
        self._asked.append(member)
        return call

    def _is_here(self, member: ClientState) -> bool:
        return self._membership.members.get(member.name) is member

    def _task(self, name: str, message: Activation) -> list[Action]:
        self._stats.uplink_bytes += sum(wire_size(message))
        self._waiting[name] = message
        return self._serve()

    def _serve(self) -> list[Action]:
        """Give to compute whatever is due."""
        names = self._due()
        if not names:
            return []
        messages = tuple(self._waiting.pop(name) for name in names)
        members = [self._membership.members[name] for name in names]
        self._stats.steps += len(members)
        for member in members:
            member.served, member.total = member.served + 1, member.total + 1
        if self._rules.server != "joint":
            tasks = zip(members, messages, strict=True)
            return [self._compute(ServeTask(message, member.index), member) for member, message in tasks]
        self._joining = members
        clients = tuple(member.index for member in members)
        weights = tuple(shares([member.samples for member in members]))
        positions = aggregated(self._federation.phi, self._federation.job.batch_size)
        return [self._compute(JointStep(messages, clients, weights, self._scales(members), positions))]

    def _due(self) -> list[str]:
        """Whose tasks are to be computed now."""
        return due(self._rules, self._steps, self._membership.members, self._waiting)

    def _scales(self, members: Sequence[ClientState]) -> tuple[float, ...]:
        """Factors of the members' parts of a joint update, beside their shares of the data."""
        return (1.0,) * len(members)

    def _stepped(self, summary: JointSummary) -> list[Action]:
        """Return its gradient to each client of a joint step."""
        joined, self._joining = self._joining, []
        self._stats.updates += 1
        self._stats.forward_samples += summary.forward_samples
        self._stats.backward_samples += summary.backward_samples
        self._stats.backward_s += summary.backward_s
        returned = [self._compute(FetchGradient(one.index), one) for one in joined if self._is_here(one)]
        return [*returned, *self._serve()]

    def _send_gradient(self, member: ClientState, gradient: Gradient) -> list[Action]:
        stats = self._stats
        if self._rules.server != "joint":
            count = gradient.metrics["count"]
            stats.updates += 1
            stats.forward_samples += count
            stats.backward_samples += count
        if not self._is_here(member):
            return []
        stats.downlink_bytes += sum(wire_size(gradient))
        stats.shared_bytes += sum(tensor.nbytes for key, tensor in gradient.tensors.items() if key.startswith(SHARED))
        return [Send(member.name, gradient)]


def due(rules: Scheme, steps: int, members: Mapping[str, ClientState], waiting: Collection[str]) -> list[str]:
    """The clients of ``members`` whose tasks, of those ``waiting``, are computed now, in this order.

    A joint step waits for all that have steps left of the round's ``steps``; a part that takes one task after the
    other does so in passes over the clients; copies, and a client alone, wait for nobody.
    """
    active = {name: one for name, one in members.items() if one.served < steps}
    if rules.server == "joint":
        return list(active) if active and active.keys() == set(waiting) else []
    if rules.order == "in turn" or rules.server == "copies":
        return list(waiting)
    chosen: list[str] = []
    passes = {name: (one.served, one.index) for name, one in active.items()}
    while passes and (first := min(passes, key=passes.__getitem__)) in set(waiting) - set(chosen):
        chosen.append(first)
        served, index = passes.pop(first)
        if served + 1 < steps:
            passes[first] = (served + 1, index)
    return chosen
