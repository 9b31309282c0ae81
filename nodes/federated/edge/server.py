"""What does an edge server of a federation decide? Who trains now, and when a round is over.

What becomes of clients' tasks is for ``edge_tasks`` to say.

A round: clients train, what the scheme shares is averaged (with the other edge servers' at the cloud, where there is
one), clients test. A client that is gone takes no further part in a round, which ends with those that remain; one that
comes begins with the next. So no step is taken twice. All decisions go by the clients' numbers, never by who was
faster, except where a scheme is asynchronous.

Clients that change their edge server do so between two rounds. They take their own part along; a server's copy that is
theirs alone (SFLv1) goes after them, with its optimizer's state. From then on they train with, and are averaged with,
what is at their new server.
"""

from collections import deque
from itertools import chain
from typing import Literal

import msgspec

from nodes.errors import PeerLostError, ProtocolError
from nodes.federated.edge.round_stats import ClientState, Tally
from nodes.federated.edge.tasks import EdgeTasks
from nodes.runtime.actions import Action, Connect, Direction, Finish, Send, Wake
from nodes.spec.federation import CLOUD, Federation
from nodes.wire.codec import wire_size
from nodes.wire.messages import (
    Activation,
    AnyMessage,
    Assign,
    Error,
    Gradient,
    Handover,
    Hello,
    Peer,
    Result,
    Round,
    Shutdown,
    Weights,
)

PASS = "pass"  # a round in which nobody is here

RoundPhase = Literal["gathering", "training", "averaging", "uploading", "testing", "over"]


class EdgeServer(EdgeTasks):
    """Edge server number ``edge`` of ``federation``; ``cloud`` is where it reaches the cloud."""

    def __init__(self, federation: Federation, edge: int, cloud: Peer | None = None) -> None:
        super().__init__(federation, edge)
        self._cloud = cloud
        self._phase: RoundPhase = "gathering"
        self._begun = False  # by the runner's word, and the cloud is there
        self._round = 0
        self._turns: deque[str] = deque()
        self._given: dict[str, Weights] = {}
        self._results: dict[str, Result] = {}  # of those whose training is not complete yet
        self._part: Weights | None = None  # the clients', to go on from
        self._samples = 0  # of those whose training of this round is complete
        self._to_cloud = False  # what was trained is still to be averaged there

    @property
    def part(self) -> Weights | None:
        """The clients' part as the scheme shares it; None before it was trained, or where it is not shared."""
        return self._part

    # Who is here

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """A client counts once it has said who it is; one whose last end has not been noticed has come anew."""
        if direction == "down":
            self._begun = True
            return self._gather(now)
        if peer not in self._roster.numbers:
            raise ProtocolError(f"{peer} is no client of this server")
        gone = self.lost(direction, now) if direction in self._roster.here else []
        self._roster.here.add(direction)
        return gone

    def lost(self, direction: Direction, now: float) -> list[Action]:
        """Go on with those that remain. Raises PeerLostError for the cloud."""
        if direction == "down":
            if self._phase == "over":
                return []
            raise PeerLostError(CLOUD, f"{CLOUD} is gone")
        was_member = self._roster.gone(direction)
        self._waiting.pop(direction, None)
        self._given.pop(direction, None)
        self._results.pop(direction, None)
        return self._go_on(now) if was_member else []

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        """Links are not measured here."""
        return []

    def woke(self, why: str, now: float) -> list[Action]:
        """Pass by a round that nobody takes part in."""
        return self._end_training(now)

    # What comes

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take what the runner, a client or the cloud says."""
        match sender, message:
            case "runner", Assign():
                self._begun = self._cloud is None
                return [Connect(self._cloud)] if self._cloud else self._gather(now)
            case "runner", Error(node=name):  # died or ended; should it come all the same, it counts
                self._roster.dead.add(self._roster.numbers[name])
                return self._gather(now)
            case "runner", Hello(node=name):  # lives again
                self._roster.dead.discard(self._roster.numbers[name])
                return []
            case "runner", Shutdown():
                return self._end()
            case "down", Weights() | Handover() | Shutdown():
                return self._from_cloud(message, now)
            case _ if sender in self._roster.numbers:
                return self._heard(sender, message, now)
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def _from_cloud(self, message: Weights | Handover | Shutdown, now: float) -> list[Action]:
        match message:
            case Weights() if self._phase == "averaging":
                return [self._compute("take", message)]
            case Handover():
                self._roster.handed(message)
                return self._gather(now)
            case Shutdown():
                return []
        raise ProtocolError(f"unexpected {type(message).__name__} from {CLOUD}")

    def _heard(self, name: str, message: AnyMessage, now: float) -> list[Action]:
        """Take what a client says; what it says of a round that it has left counts for nothing."""
        match message:
            case Result(metrics={"samples": samples, "mean_samples": mean}):
                current = bool(message.metrics.get("current")) and self._rules.clients == "average"
                newcomer = ClientState(
                    name=name, index=self._roster.numbers[name], samples=max(1, int(samples)), current=current
                )
                route = self._roster.come(newcomer, message.assignment)
                return [Send(name, route)] if route else self._introduced(newcomer, mean, now)
            case Shutdown():
                return self.lost(name, now)
            case Activation() | Result() | Weights():
                return self._told(name, message, now) if name in self._roster.members else []
        raise ProtocolError(f"unexpected {type(message).__name__} from {name}")

    def _told(self, name: str, message: Activation | Result | Weights, now: float) -> list[Action]:
        """Take what a client of this round says."""
        match message:
            case Activation(train=True):
                return self._task(name, message)
            case Activation():
                return [self._compute_for(self._roster.members[name], "forward", message)]
            case Result():
                return self._reported(name, message, now)
            case Weights():
                self._tally.up_bytes += sum(wire_size(message))
                self._given[name] = message
                return self._go_on(now)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Return what came of a task, or go on with what was averaged."""
        asker = self._asked.popleft()
        match reply:
            case Gradient() if asker:
                return self._send_gradient(asker, reply)
            case Result() if asker:
                return [Send(asker.name, reply)] if self._is_here(asker) else []
            case Gradient():
                return self._stepped(reply)
            case Handover():
                return self._handed_over(reply, now)
            case Weights() if self._phase == "uploading":
                self._phase = "averaging"
                return [Send("down", reply)]
            case Weights():
                self._part = reply if reply.tensors else self._part
                return self._upload() if self._to_cloud else self._averaged(now)
        raise ProtocolError(f"unexpected {type(reply).__name__} from a computation")

    # A round

    def _introduced(self, newcomer: ClientState, mean: float, now: float) -> list[Action]:
        """Take up one that has come."""
        self._steps = self._steps or max(1, int(mean) // self._federation.job.batch_size)
        self._roster.newcomers[newcomer.name] = newcomer
        return self._gather(now)

    def _gather(self, now: float) -> list[Action]:
        """Begin the round as soon as all are here that it waits for; if nobody is to come, pass it by."""
        if self._phase != "gathering" or not self._begun or not self._roster.gathered(self._round):
            return []
        self._phase = "training"
        self._tally = Tally(began=now, participants=len(self._roster.members))
        arrivals = self._roster.take(self._round)
        self._tally.moved_bytes = sum(sum(wire_size(handover)) for handover in arrivals)
        return [*(self._compute("settle", handover) for handover in arrivals), *self._train(now)]

    def _begin(self, now: float) -> list[Action]:
        """Begin the next round, or end."""
        if self._round == self._federation.rounds:
            return self._end()
        self._phase = "gathering"
        return [*self._release(), *self._gather(now)]

    def _release(self) -> list[Action]:
        """Send those on their way who belong elsewhere from this round on, and what is theirs after them."""
        actions: list[Action] = []
        for name, here, route in self._roster.release(self._round):
            client = self._roster.numbers[name]
            actions.append(self._compute("leave", self._round, client, route.nodes[0].name, here))
            actions += [Send(name, route)] if here else []
        return actions

    def _handed_over(self, handover: Handover, now: float) -> list[Action]:
        """Send on what follows a client that has left; nothing is to do once what came of one is settled."""
        if handover.to == self._federation.edge_names[self._edge]:
            return []
        self._roster.sent()
        return [Send("down", handover), *self._gather(now)]

    def _train(self, now: float) -> list[Action]:
        """Let the members of the round train."""
        if not self._roster.members:
            return [Wake(now, PASS)]
        self._waiting, self._given, self._results = {}, {}, {}
        for member in self._roster.members.values():
            member.served, member.reported = 0, False
        if self._rules.order == "in turn":
            self._turns = deque(self._roster.members)
            return self._start(self._turns[0])
        return list(chain.from_iterable(self._start(name) for name in self._roster.members))

    def _start(self, name: str) -> list[Action]:
        """Let ``name`` train; in turn it goes on from the part of the one before."""
        return [*self._hand(name), Send(name, Round(assignment=self._round, steps=self._steps))]

    def _hand(self, name: str) -> list[Action]:
        """Send ``name`` the clients' part, if there is one that it does not hold, or bring as its last server's."""
        member = self._roster.members[name]
        brought, member.current = member.current, False
        if self._part is None or member.holds is self._part:
            return []
        member.holds = self._part
        if brought:
            return []
        self._tally.down_bytes += sum(wire_size(self._part))
        return [Send(name, self._part)]

    def _reported(self, name: str, message: Result, now: float) -> list[Action]:
        """Note what a client told of its training or its tests."""
        if message.assignment != self._round:
            return []
        if "count" in message.metrics:
            self._results[name] = message
        else:
            self._tally.note(message)
        self._roster.members[name].reported = True
        return self._go_on(now)

    def _note(self, name: str) -> None:
        """Count what ``name`` told of its training, which is complete."""
        if result := self._results.pop(name, None):
            self._tally.note(result)
            self._tally.noted += self._steps
            self._tally.steps += self._steps if self._rules.server == "none" else 0

    def _go_on(self, now: float) -> list[Action]:
        """After something came or somebody went: serve, or end what all have done."""
        match self._phase:
            case "training":
                return self._next_turn(now) if self._turns else [*self._serve(), *self._end_training(now)]
            case "testing" if all(member.reported for member in self._roster.members.values()):
                return self._report(now)
        return []

    def _complete(self, name: str) -> bool:
        """Whether ``name`` has done its part of the training."""
        return self._roster.members[name].reported and (self._rules.clients == "keep" or name in self._given)

    def _next_turn(self, now: float) -> list[Action]:
        """Let the next client train, if the one whose turn it is has ended or gone."""
        name = self._turns[0]
        if name in self._roster.members:
            if not self._complete(name):
                return []
            self._note(name)
            self._part = self._roster.members[name].holds = msgspec.structs.replace(self._given[name], samples=0)
        self._turns.popleft()
        while self._turns and self._turns[0] not in self._roster.members:
            self._turns.popleft()
        return self._start(self._turns[0]) if self._turns else self._end_training(now)

    def _end_training(self, now: float) -> list[Action]:
        """Average what the scheme shares, once all have ended."""
        if not all(self._complete(name) for name in self._roster.members):
            return []
        for name in self._roster.members:
            self._note(name)
        self._tally.trained = now
        self._samples = sum(member.samples for member in self._roster.members.values())
        self._phase = "averaging"
        self._to_cloud = self._cloud is not None and (self._round + 1) % self._federation.cloud_every == 0
        if self._rules.clients == "average" and self._roster.members:
            given = tuple(self._given[name] for name in self._roster.members)
            return [self._compute("average", given, tuple(member.index for member in self._roster.members.values()))]
        return self._upload() if self._to_cloud else self._averaged(now)

    def _upload(self) -> list[Action]:
        """Let the cloud average what was trained here with what was elsewhere."""
        self._phase, self._to_cloud = "uploading", False
        return [self._compute("give", self._round, self._samples, self._part)]

    def _averaged(self, now: float) -> list[Action]:
        """Hand on what was averaged, and let all test."""
        actions: list[Action] = []
        if self._rules.clients == "average":
            self._roster.admit(self._round)
            actions += chain.from_iterable(self._hand(name) for name in self._roster.members)
        self._tally.averaged = now
        every, last = self._federation.test_every, self._round + 1 == self._federation.rounds
        if not every or ((self._round + 1) % every and not last):
            return [*actions, *self._report(now)]
        self._phase = "testing"
        for name, member in self._roster.members.items():
            member.reported = False
            if self._part is not None and member.holds is not self._part:
                actions.append(Send(name, self._part))  # for its tests: not counted, and handed on again to train
            actions.append(Send(name, Round(assignment=self._round)))
        return actions if self._roster.members else [*actions, *self._report(now)]

    def _report(self, now: float) -> list[Action]:
        told = self._tally.told(self._round, self._edge, now)
        self._round += 1
        return [Send("runner", told), *self._begin(now)]

    def _end(self) -> list[Action]:
        self._phase = "over"
        to_cloud = [Send("down", Shutdown())] if self._cloud and self._begun else []
        return [*(Send(name, Shutdown()) for name in sorted(self._roster.here)), *to_cloud, Finish()]
