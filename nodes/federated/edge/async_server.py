"""What does an edge server decide whose clients do not wait for each other? Asynchronous parallel split learning.

The server takes a step on whatever tasks wait when it is free. A client that is more than ``staleness`` steps ahead of
the slowest waits; an update counts the less, the more others the server made since it last served that client. Of k
clients one with n pictures counts n / (k m), where the mean client has m: all at once as in synchronous PSL. A round
is as many client steps as in the other schemes, whoever takes them: those of slow clients are fewer. (The paper names
staleness and the under-representation of slow clients as open, and no rule for either; these are ours.)
"""

from collections.abc import Sequence
from statistics import fmean

from nodes.federated.edge.round_stats import ClientState, Tally
from nodes.federated.edge.server import EdgeServer
from nodes.federated.formulas import fading, may_go_on
from nodes.runtime.actions import Action, Send
from nodes.spec.federation import Federation
from nodes.wire.messages import AnyMessage, Gradient, Result, Round


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
        if self._phase != "training" or name not in self._roster.newcomers:
            return began
        self._roster.newcomers[name].total = min((one.total for one in self._roster.members.values()), default=0)
        self._roster.admit(self._round)
        return self._start(name)

    def _due(self) -> list[str]:
        if self._joining or self._phase != "training" or self._enough:
            return []
        slowest = min((one.total for one in self._roster.members.values()), default=0)
        bound = self._federation.staleness
        ready = [name for name in self._waiting if may_go_on(self._roster.members[name].total, slowest, bound)]
        return sorted(ready, key=self._roster.numbers.__getitem__)

    def _fades(self, members: Sequence[ClientState]) -> tuple[float, ...]:
        """Beside its share among ``members``: by their data against the mean client's, and by its staleness."""
        share = fmean(member.samples for member in members) / fmean(
            one.samples for one in self._roster.members.values()
        )
        self._updates += 1
        fades: list[float] = []
        for member in members:
            missed = self._updates - 1 - self._served[member.name]
            self._served[member.name] = self._updates
            self._tally.staleness += missed
            fades.append(share * fading(missed, self._federation.staleness_exponent))
        return tuple(fades)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """As ever; the round ends once its steps were taken and their gradients returned."""
        actions = super().computed(reply, now)
        if self._phase != "training" or self._asked or not self._enough:
            return actions
        self._tally.trained = now
        if self._round + 1 == self._federation.rounds:
            return [*actions, *self._averaged(now)]
        told = self._tally.told(self._round, self._edge, now)
        self._round += 1
        self._tally = Tally(began=now, participants=len(self._roster.members))
        return [*actions, Send("runner", told), *self._serve()]

    @property
    def _enough(self) -> bool:
        """Whether the round has its steps."""
        return self._tally.steps >= self._steps * len(self._roster.numbers)

    def _send_gradient(self, member: ClientState, gradient: Gradient) -> list[Action]:
        """Note each step as its gradient returns: what a client tells of several may come rounds later, or never."""
        self._tally.note(gradient)
        self._tally.noted += 1
        return super()._send_gradient(member, gradient)

    def _reported(self, name: str, message: Result, now: float) -> list[Action]:
        """After its steps a client goes on with as many more."""
        if "count" not in message.metrics:
            return super()._reported(name, message, now)
        return [Send(name, Round(assignment=self._round, steps=self._steps))] if self._phase == "training" else []

    def _go_on(self, now: float) -> list[Action]:
        return self._serve() if self._phase == "training" else super()._go_on(now)
