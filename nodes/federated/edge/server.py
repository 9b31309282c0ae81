"""Role of an edge server of a federation: who trains now, and when a round ends.

A round: clients train, what the scheme shares is averaged (with the other edge servers' at the cloud, where there is
one), clients test. A client that is gone takes no further part in a round, which ends with those that remain; one that
comes begins with the next. So no step is taken twice. All decisions go by the clients' numbers, never by who was
faster, except where a scheme is asynchronous.

Clients that change their edge server do so between two rounds. They take their own part along; a server's copy that is
theirs alone (SFLv1) follows them, with its optimizer's state. From then on they train with, and are averaged with,
what is at their new server.
"""

from collections import deque
from itertools import chain
from typing import Any, Literal

from nodes.errors import ProtocolError, unexpected
from nodes.federated.calls import (
    Adopted,
    AdoptGlobal,
    AdoptHandover,
    AverageClients,
    GiveEdgeUpdate,
    HandOver,
    JointSummary,
    ServeTask,
)
from nodes.federated.edge.round_stats import ClientState, RoundStats
from nodes.federated.edge.tasks import EdgeTasks
from nodes.runtime.actions import Action, Connect, Direction, Finish, Send, Wake
from nodes.spec.federation import Federation
from nodes.wire.codec import wire_size
from nodes.wire.messages import (
    Activation,
    AnyMessage,
    Begin,
    ClientFinished,
    ClientHello,
    ClientLost,
    ClientModel,
    ClientReturned,
    ClientUpdate,
    EdgeUpdate,
    GlobalModel,
    Gradient,
    Handover,
    Peer,
    Replaced,
    Result,
    RoundTested,
    RoundTrained,
    Shutdown,
    TestRound,
    TrainRound,
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
        self._given: dict[str, ClientUpdate] = {}
        self._results: dict[str, RoundTrained] = {}  # of those whose training is not complete yet
        self._part: ClientModel | None = None  # the clients', to go on from
        self._samples = 0  # of those whose training of this round is complete
        self._to_cloud = False  # what was trained is still to be averaged there

    @property
    def part(self) -> ClientModel | None:
        """The clients' part as the scheme shares it; None before it was trained, or where it is not shared."""
        return self._part

    # Who is here

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """Take note of a client, which counts once its hello has come; the end of its last channel may go unnoticed."""
        if direction == "next":
            self._begun = True
            return self._gather(now)
        if peer not in self._membership.numbers:
            raise ProtocolError(f"{peer} is no client of this server")
        gone = self._without(direction, now) if direction in self._membership.here else []
        self._membership.here.add(direction)
        return gone

    def lost(self, direction: Direction, now: float) -> list[Action] | None:
        if direction == "next":
            return [] if self._phase == "over" else None
        return self._without(direction, now)

    def woke(self, why: str, now: float) -> list[Action]:
        return self._end_training(now)

    def _without(self, name: str, now: float) -> list[Action]:
        """Go on with the clients that remain."""
        was_member = self._membership.gone(name)
        self._waiting.pop(name, None)
        self._given.pop(name, None)
        self._results.pop(name, None)
        return self._go_on(now) if was_member else []

    # Messages

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:  # noqa: PLR0911 (one a message)
        match sender, message:
            case "runner", Begin():
                self._begun = self._cloud is None
                return [Connect(self._cloud)] if self._cloud else self._gather(now)
            case "runner", ClientLost(client=name) | ClientFinished(
                client=name
            ):  # should it come all the same, it counts
                self._membership.dead.add(self._membership.numbers[name])
                return self._gather(now)
            case "runner", ClientReturned(client=name):
                self._membership.dead.discard(self._membership.numbers[name])
                return []
            case "runner", Shutdown():
                return self._end()
            case "next", GlobalModel() if self._phase == "averaging":
                return [self._compute(AdoptGlobal(message))]
            case "next", Handover():
                self._membership.handed(message)
                return self._gather(now)
            case "next", Shutdown() | Replaced():
                return []
            case _ if sender in self._membership.numbers:
                return self._from_client(sender, message, now)
        raise unexpected(message, sender)

    def _from_client(self, name: str, message: AnyMessage, now: float) -> list[Action]:
        """Take a client's message; messages of a round that it has left count for nothing."""
        match message:
            case ClientHello():
                current = message.current and self._rules.clients == "average"
                index, samples = self._membership.numbers[name], max(1, message.samples)
                newcomer = ClientState(name=name, index=index, samples=samples, current=current)
                change = self._membership.come(newcomer, message.round)
                return [Send(name, change)] if change else self._introduced(newcomer, message.mean_samples, now)
            case Shutdown() | Replaced():
                return self._without(name, now)
            case Activation() | RoundTrained() | RoundTested() | ClientUpdate():
                return self._from_member(name, message, now) if name in self._membership.members else []
        raise unexpected(message, name)

    def _from_member(
        self, name: str, message: Activation | RoundTrained | RoundTested | ClientUpdate, now: float
    ) -> list[Action]:
        """Take the message of a client of this round."""
        member = self._membership.members[name]
        match message:
            case Activation(train=True):
                return self._task(name, message)
            case Activation():
                return [self._compute(ServeTask(message, member.index), member)]
            case RoundTrained():
                return self._trained(name, message, now)
            case RoundTested():
                return self._tested(name, message, now)
            case ClientUpdate():
                self._stats.uplink_bytes += sum(wire_size(message))
                self._given[name] = message
                return self._go_on(now)

    def computed(self, reply: Any, now: float) -> list[Action]:  # noqa: PLR0911 (one a reply)
        asker = self._asked.popleft()
        match reply:
            case Gradient() if asker:
                return self._send_gradient(asker, reply)
            case Result() if asker:
                return [Send(asker.name, reply)] if self._is_here(asker) else []
            case JointSummary():
                return self._stepped(reply)
            case Handover():
                self._membership.sent()
                return [Send("next", reply), *self._gather(now)]
            case Adopted():
                return []
            case EdgeUpdate():
                self._phase = "averaging"
                return [Send("next", reply)]
            case ClientModel():
                self._part = reply if reply.tensors else self._part
                return self._upload() if self._to_cloud else self._averaged(now)
        raise unexpected(reply, "the worker")

    # A round

    def _introduced(self, newcomer: ClientState, mean: float, now: float) -> list[Action]:
        """Take up one that has come."""
        self._steps = self._steps or max(1, int(mean) // self._federation.job.batch_size)
        self._membership.newcomers[newcomer.name] = newcomer
        return self._gather(now)

    def _gather(self, now: float) -> list[Action]:
        """Begin the round as soon as all are here that it waits for; if nobody is to come, pass it by."""
        if self._phase != "gathering" or not self._begun or not self._membership.gathered(self._round):
            return []
        self._phase = "training"
        self._stats = RoundStats(began=now, participants=len(self._membership.members))
        arrivals = self._membership.take(self._round)
        self._stats.moved_bytes = sum(sum(wire_size(handover)) for handover in arrivals)
        return [*(self._compute(AdoptHandover(handover)) for handover in arrivals), *self._train(now)]

    def _begin(self, now: float) -> list[Action]:
        """Begin the next round, or end."""
        if self._round == self._federation.rounds:
            return self._end()
        self._phase = "gathering"
        return [*self._release(), *self._gather(now)]

    def _release(self) -> list[Action]:
        """Send those on their way who belong elsewhere from this round on, and what is theirs after them."""
        actions: list[Action] = []
        for client, name, here, change in self._membership.release(self._round):
            actions.append(self._compute(HandOver(self._round, client, change.server, here)))
            actions += [Send(name, change)] if here else []
        return actions

    def _train(self, now: float) -> list[Action]:
        """Let the members of the round train."""
        if not self._membership.members:
            return [Wake(now, PASS)]
        self._waiting, self._given, self._results = {}, {}, {}
        for member in self._membership.members.values():
            member.served, member.reported = 0, False
        if self._rules.order == "in turn":
            self._turns = deque(self._membership.members)
            return self._start(self._turns[0])
        return list(chain.from_iterable(self._start(name) for name in self._membership.members))

    def _start(self, name: str) -> list[Action]:
        """Let ``name`` train; in turn it goes on from the part of the one before."""
        return [*self._hand(name), Send(name, TrainRound(round=self._round, steps=self._steps))]

    def _hand(self, name: str) -> list[Action]:
        """Send ``name`` the clients' part, if there is one that it does not hold, or bring as its last server's."""
        member = self._membership.members[name]
        brought, member.current = member.current, False
        if self._part is None or member.holds is self._part:
            return []
        member.holds = self._part
        if brought:
            return []
        self._stats.downlink_bytes += sum(wire_size(self._part))
        return [Send(name, self._part)]

    def _trained(self, name: str, trained: RoundTrained, now: float) -> list[Action]:
        if trained.round != self._round:
            return []
        self._results[name] = trained
        self._membership.members[name].reported = True
        return self._go_on(now)

    def _tested(self, name: str, tested: RoundTested, now: float) -> list[Action]:
        if tested.round != self._round:
            return []
        self._stats.add_tested(tested)
        self._membership.members[name].reported = True
        return self._go_on(now)

    def _note(self, name: str) -> None:
        """Count the training of ``name``, which is complete."""
        if trained := self._results.pop(name, None):
            self._stats.add_trained(trained, self._steps)
            self._stats.steps += self._steps if self._rules.server == "none" else 0

    def _go_on(self, now: float) -> list[Action]:
        """After something came or somebody went: serve, or end what all have done."""
        match self._phase:
            case "training":
                return self._next_turn(now) if self._turns else [*self._serve(), *self._end_training(now)]
            case "testing" if all(member.reported for member in self._membership.members.values()):
                return self._report(now)
        return []

    def _complete(self, name: str) -> bool:
        """Whether ``name`` has done its part of the training."""
        return self._membership.members[name].reported and (self._rules.clients == "keep" or name in self._given)

    def _next_turn(self, now: float) -> list[Action]:
        """Let the next client train, if the one whose turn it is has ended or gone."""
        name = self._turns[0]
        if name in self._membership.members:
            if not self._complete(name):
                return []
            self._note(name)
            given = self._given[name]
            self._part = self._membership.members[name].holds = ClientModel(round=given.round, tensors=given.tensors)
        self._turns.popleft()
        while self._turns and self._turns[0] not in self._membership.members:
            self._turns.popleft()
        return self._start(self._turns[0]) if self._turns else self._end_training(now)

    def _end_training(self, now: float) -> list[Action]:
        """Average what the scheme shares, once all have ended."""
        if not all(self._complete(name) for name in self._membership.members):
            return []
        for name in self._membership.members:
            self._note(name)
        self._stats.trained = now
        self._samples = sum(member.samples for member in self._membership.members.values())
        self._phase = "averaging"
        self._to_cloud = self._cloud is not None and (self._round + 1) % self._federation.cloud_every == 0
        if self._rules.clients == "average" and self._membership.members:
            given = tuple(self._given[name] for name in self._membership.members)
            clients = tuple(member.index for member in self._membership.members.values())
            return [self._compute(AverageClients(given, clients))]
        return self._upload() if self._to_cloud else self._averaged(now)

    def _upload(self) -> list[Action]:
        """Let the cloud average what was trained here with what was elsewhere."""
        self._phase, self._to_cloud = "uploading", False
        return [self._compute(GiveEdgeUpdate(self._round, self._samples, self._part))]

    def _averaged(self, now: float) -> list[Action]:
        """Hand on what was averaged, and let all test."""
        actions: list[Action] = []
        if self._rules.clients == "average":
            self._membership.admit(self._round)
            actions += chain.from_iterable(self._hand(name) for name in self._membership.members)
        self._stats.averaged = now
        every, last = self._federation.test_every, self._round + 1 == self._federation.rounds
        if not every or ((self._round + 1) % every and not last):
            return [*actions, *self._report(now)]
        self._phase = "testing"
        for name, member in self._membership.members.items():
            member.reported = False
            if self._part is not None and member.holds is not self._part:
                actions.append(Send(name, self._part))  # for its tests: not counted, and handed on again to train
            actions.append(Send(name, TestRound(round=self._round)))
        return actions if self._membership.members else [*actions, *self._report(now)]

    def _report(self, now: float) -> list[Action]:
        report = self._stats.report(self._round, self._edge, now)
        self._round += 1
        return [Send("runner", report), *self._begin(now)]

    def _end(self) -> list[Action]:
        self._phase = "over"
        to_cloud = [Send("next", Shutdown())] if self._cloud and self._begun else []
        return [*(Send(name, Shutdown()) for name in sorted(self._membership.here)), *to_cloud, Finish()]
