"""What does an edge server decide whose clients do not wait for each other? Asynchronous parallel split learning.

The server takes a step on whatever tasks wait when it is free. A client that is more than ``staleness`` steps ahead of
the slowest waits; an update counts the less, the more others the server made since it last served that client. A round
is as many client steps as in the other schemes, whoever takes them: those of slow clients are fewer. (The paper names
staleness and the under-representation of slow clients as open, and no rule for either; these are ours.)
"""

from nodes.algorithms.parallel import fading, may_go_on
from nodes.edge import EdgeServer
from nodes.federation import Federation
from nodes.messages import Result, Round
from nodes.node import Action, Send
from nodes.tally import Tally


class FreeServer(EdgeServer):
    """The edge server of an asynchronous federation. Clients test when all training is over."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, 0)
        self._updates = 0

    def _introduced(self, name: str, samples: int, mean: float, now: float) -> list[Action]:
        """Let one that comes while others train begin where the slowest of them is."""
        began = super()._introduced(name, samples, mean, now)
        if self._phase != "training" or name not in self._newcomers:
            return began
        self._newcomers[name].total = min((one.total for one in self._members.values()), default=0)
        self._admit()
        return self._start(name)

    def _due(self) -> list[str]:
        if self._busy or self._phase != "training":
            return []
        slowest = min((one.total for one in self._members.values()), default=0)
        bound = self._federation.staleness
        ready = [name for name in self._waiting if may_go_on(self._members[name].total, slowest, bound)]
        return sorted(ready, key=self._names.__getitem__)

    def _fade(self, name: str) -> float:
        member = self._members[name]
        if name == self._joining[0]:
            self._updates += 1
        missed = self._updates - 1 - member.seen if member.total > 1 else 0
        member.seen = self._updates
        self._tally.staleness += missed
        return fading(missed, self._federation.fade)

    def _serve(self, now: float) -> list[Action]:
        """End the round if its steps were taken; serve whoever may be."""
        enough = self._steps * len(self._names)
        if self._phase != "training" or self._busy or self._tally.steps < enough:
            return super()._serve(now)
        self._tally.trained = now
        if self._round + 1 == self._federation.rounds:
            return self._averaged(now)
        told = self._tally.told(self._round, self._edge, now)
        self._round += 1
        self._tally = Tally(began=now, participants=len(self._members))
        return [Send("runner", told), *super()._serve(now)]

    def _reported(self, name: str, message: Result, now: float) -> list[Action]:
        """After its steps a client goes on with as many more."""
        if "count" not in message.metrics:
            return super()._reported(name, message, now)
        self._tally.note(message)
        return [Send(name, Round(assignment=self._round, steps=self._steps))] if self._phase == "training" else []

    def _go_on(self, now: float) -> list[Action]:
        return self._serve(now) if self._phase == "training" else super()._go_on(now)
