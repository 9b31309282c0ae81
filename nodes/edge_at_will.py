"""What does an edge server decide whose clients do not wait for each other? Asynchronous parallel split learning.

Each client goes through its rounds alone. The server takes a step on whatever tasks wait when it is free. A client that
is more than ``staleness`` steps ahead of the slowest waits; an update counts the less, the more others the server made
since it last served that client. (The paper names both as open, and no rule for either; these are ours.)
"""

from nodes.algorithms.parallel import fading, may_go_on
from nodes.edge import EdgeServer
from nodes.federation import Federation
from nodes.messages import Result, Round
from nodes.node import Action, Send
from nodes.tally import Tally


class FreeServer(EdgeServer):
    """The edge server of an asynchronous federation."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, 0)
        self._updates = 0
        self._tallies: dict[int, Tally] = {}

    def _introduced(self, name: str, samples: int, mean: float, now: float) -> list[Action]:
        began = super()._introduced(name, samples, mean, now)
        return self._come_back(name) if self._phase == "training" and name in self._newcomers else began

    def _come_back(self, name: str) -> list[Action]:
        """Let one that comes while others train begin where the slowest of them is."""
        member, others = self._newcomers[name], self._members.values()
        member.begun = max(self._round, min((one.begun for one in others), default=0))
        member.total = min((one.total for one in others), default=0)
        self._admit()
        return self._start(name)

    def _start(self, name: str) -> list[Action]:
        return [Send(name, Round(assignment=self._members[name].begun, steps=self._steps))]

    def _due(self) -> list[str]:
        if self._busy:
            return []
        slowest = min(one.total for one in self._members.values()) if self._members else 0
        bound = self._federation.staleness
        ready = [name for name in self._waiting if may_go_on(self._members[name].total, slowest, bound)]
        return sorted(ready, key=self._names.__getitem__)

    def _fade(self, name: str) -> float:
        member = self._members[name]
        if name == self._joining[0]:
            self._updates += 1
        missed = self._updates - 1 - member.seen if member.total > 1 else 0
        member.seen = self._updates
        self._tally_of(name).staleness += missed
        return fading(missed, self._federation.fade)

    def _reported(self, name: str, message: Result, now: float) -> list[Action]:
        """After its training a client tests; after its tests its next round begins."""
        member, tally = self._members[name], self._tally_of(name)
        tally.note(message)
        if "count" in message.metrics:
            tally.trained = now
            last = member.begun + 1 == self._federation.rounds
            if last or not (member.begun + 1) % self._federation.test_every:
                return [Send(name, Round(assignment=member.begun))]
        member.begun += 1
        next_round = self._start(name) if member.begun < self._federation.rounds else []
        return [*next_round, *self._go_on(now)]

    def _go_on(self, now: float) -> list[Action]:
        """Serve whoever may be, tell of each round that no client is in any more, and end after the last."""
        served = self._serve(now)
        slowest = min((member.begun for member in self._members.values()), default=0)
        told: list[Action] = []
        while self._round < slowest:
            tally = self._tallies.pop(self._round, Tally(began=now))
            self._tally.began = tally.trained  # the next round's time is counted from there
            told.append(Send("runner", tally.told(self._round, self._edge, now)))
            self._round += 1
        over = self._round == self._federation.rounds and self._phase != "over"
        return [*served, *told, *(self._end() if over else [])]

    def _tally_of(self, name: str) -> Tally:
        number = self._members[name].begun
        if number not in self._tallies:
            began = self._tallies[number - 1].trained if number - 1 in self._tallies else self._tally.began
            self._tallies[number] = Tally(began=began, participants=len(self._members))
        return self._tallies[number]
