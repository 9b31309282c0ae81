"""Edge server of asynchronous parallel split learning: clients do not wait for each other.

The server takes a step on whatever tasks wait when it is free. A client that is more than ``staleness`` steps ahead of
the slowest waits; an update counts the less, the more others the server made since it last served that client. Of k
clients one with n pictures counts n / (k m), where the mean client has m: all at once as in synchronous PSL. A round
is as many client steps as in the other schemes, whoever takes them: those of slow clients are fewer. (The paper names
staleness and the under-representation of slow clients as open, and no rule for either; these are ours.)
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from nodes.federated.edge.round_stats import ClientState, RoundStats
from nodes.federated.edge.server import EdgeServer
from nodes.federated.formulas import fading, may_go_on
from nodes.runtime.actions import Action, Send
from nodes.spec.federation import Federation
from nodes.wire.messages import Gradient, RoundTrained, TrainRound


class AsyncEdgeServer(EdgeServer):
    """The edge server of an asynchronous federation. Clients test when all training is over."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, 0)
        self._updates = 0
        self._served: dict[str, int] = {}  # the updates there were when a client came, or was served last

    def _introduced(self, newcomer: ClientState, mean: float, now: float) -> list[Action]:
        """Let one that comes while others train begin where the slowest of them is."""
        name = newcomer.name
        self._served[name] = self._updates
        began = super()._introduced(newcomer, mean, now)
        if self._phase != "training" or name not in self._membership.newcomers:
            return began
        self._membership.newcomers[name].total = min(
            (one.total for one in self._membership.members.values()), default=0
        )
        self._membership.admit(self._round)
        return self._start(name)

    def _due(self) -> list[str]:
        if self._joining or self._phase != "training" or self._enough:
            return []
        slowest = min((one.total for one in self._membership.members.values()), default=0)
        bound = self._federation.staleness
        ready = [name for name in self._waiting if may_go_on(self._membership.members[name].total, slowest, bound)]
        return sorted(ready, key=self._membership.numbers.__getitem__)

    def _scales(self, members: Sequence[ClientState]) -> tuple[float, ...]:
        """Beside its share among ``members``: by their data against the mean client's, and by its staleness."""
        share = fmean(member.samples for member in members) / fmean(
            one.samples for one in self._membership.members.values()
        )
        self._updates += 1
        scales: list[float] = []
        for member in members:
            missed = self._updates - 1 - self._served[member.name]
            self._served[member.name] = self._updates
            self._stats.staleness += missed
            scales.append(share * fading(missed, self._federation.staleness_exponent))
        return tuple(scales)

    def computed(self, reply: Any, now: float) -> list[Action]:
        """As ever; the round ends once its steps were taken and their gradients returned."""
        actions = super().computed(reply, now)
        if self._phase != "training" or self._asked or not self._enough:
            return actions
        self._stats.trained = now
        if self._round + 1 == self._federation.rounds:
            return [*actions, *self._averaged(now)]
        report = self._stats.report(self._round, self._edge, now)
        self._round += 1
        self._stats = RoundStats(began=now, participants=len(self._membership.members))
        return [*actions, Send("runner", report), *self._serve()]

    @property
    def _enough(self) -> bool:
        """Whether the round has its steps."""
        return self._stats.steps >= self._steps * len(self._membership.numbers)

    def _send_gradient(self, member: ClientState, gradient: Gradient) -> list[Action]:
        """Count each step as its gradient returns: a client's report of several may come rounds later, or never."""
        self._stats.add_step(gradient)
        return super()._send_gradient(member, gradient)

    def _trained(self, name: str, trained: RoundTrained, now: float) -> list[Action]:
        """After its steps a client goes on with as many more."""
        return [Send(name, TrainRound(round=self._round, steps=self._steps))] if self._phase == "training" else []

    def _go_on(self, now: float) -> list[Action]:
        return self._serve() if self._phase == "training" else super()._go_on(now)
