"""Role of an edge server of a federation: rounds of training, aggregation and tests, as its scheme decides.

A round: clients train, what the scheme shares is aggregated (with the other edge servers' at the cloud, where there is
one), clients test. A round ends without a client that is gone; one that comes begins with the next.

Clients change their edge server between two rounds, with their own part. A server's copy that is theirs alone (SFLv1)
follows them, with its optimizer's state.
"""

from itertools import chain
from typing import Any, Literal

from nodes.errors import ProtocolError, unexpected
from nodes.federated.client_worker import Adopted
from nodes.federated.edge.deadline import Deadline
from nodes.federated.edge.joint_step import JointReply
from nodes.federated.edge.keeping import EdgeKeeping
from nodes.federated.edge.membership import Membership
from nodes.federated.edge.returning import JointStart
from nodes.federated.edge.shared_part import SharedPart
from nodes.federated.edge.tasks import RoundStats, Tasks
from nodes.federated.edge.worker import AdoptGlobal, AdoptHandover, Aggregate, GiveEdgeUpdate, HandOver, ServeTask
from nodes.federated.schemes import ClientState, RoundState, Update, scheme_of
from nodes.federated.schemes.base import Decisions
from nodes.runtime.actions import Action, Connect, Direction, Finish, Role, Send, Wake
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

PASS = "pass"  # a round in which nobody trains

FromClient = Activation | Gradient | RoundTrained | RoundTested | ClientUpdate
RoundPhase = Literal["gathering", "training", "averaging", "uploading", "testing", "over"]


class EdgeServer(Role):
    """Edge server number ``edge``; it reaches the ``cloud``, if there is one, and goes on from what was ``kept``."""

    def __init__(self, federation: Federation, edge: int, cloud: Peer | None = None, kept: Any = None) -> None:
        self._federation, self._edge, self._cloud = federation, edge, cloud
        self._scheme = scheme_of(federation)
        self._decisions = Decisions(self._scheme, federation)
        self._membership = Membership(federation, edge, kept["round"]["number"] if kept else 0)
        self._round = RoundState(steps=federation.local_steps or 0, expected=len(self._membership.numbers))
        self._tasks = Tasks(self._decisions, self._membership, self._round, federation.job)
        self._stats = RoundStats(began=0.0)
        self._phase: RoundPhase = "gathering"
        self._begun = False  # by the runner's word, and the cloud is there
        self._calls = False  # the cloud
        self._all_train = True  # in this round, none rests
        self._given: dict[ClientState, ClientUpdate] = {}
        self._trained: dict[ClientState, RoundTrained] = {}  # not counted yet
        self._part = SharedPart(self._scheme, self._round)
        self._keeping = EdgeKeeping(federation, edge, self._part, kept)
        self._deadline = Deadline(federation, self._round)
        self._samples = 0  # of those who completed a round, summed over the rounds since the cloud's last average
        self._untested: set[str] = set()
        self._to_cloud = False  # what was trained is still to be aggregated there

    def part_for(self, name: str) -> ClientModel | None:
        """The shared part that client ``name`` is to be tested with; None if that is its own."""
        return self._part.of(self._membership.members.get(name))

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """Take note of a client, which counts once its hello has come; the end of its last channel may go unnoticed."""
        if direction == "next":
            self._begun = True
            return self._end() if self._phase == "over" else self._gather(now)
        if peer not in self._membership.numbers:
            raise ProtocolError(f"{peer} is no client of this server")
        gone = self._without(direction, now) if direction in self._membership.here else []
        self._membership.here.add(direction)
        return [*gone, Send(direction, Shutdown())] if self._phase == "over" else gone

    def lost(self, direction: Direction, now: float) -> list[Action] | None:
        if direction == "next":
            return [Finish()] if self._phase == "over" else None
        return self._without(direction, now)

    def woke(self, why: str, now: float) -> list[Action]:
        return self._at_deadline(now) if self._deadline.has_come(why) else self._end_training(now)

    def _at_deadline(self, now: float) -> list[Action]:
        """Go on without the clients that are late; their results count for nothing."""
        self._untested.clear()
        late = self._deadline.strike(self._tasks.served) if self._phase == "training" else []
        self._stats.late += len(late)
        for client in late:
            client.phase = "resting"
            self._drop(client)
        return [*self._go_on(now), *(self._deadline.arm(now) if self._phase == "training" else [])]

    def _drop(self, client: ClientState) -> None:
        for held in (self._round.tasks, self._given, self._trained):
            held.pop(client, None)
        if client in self._round.clients:
            self._round.clients.remove(client)

    def _without(self, name: str, now: float) -> list[Action]:
        """Go on with the clients that remain."""
        client = self._membership.gone(name)
        if client is None:
            return []
        self._drop(client)
        self._deadline.late.discard(name)
        self._untested.discard(name)
        return self._go_on(now)

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:  # noqa: PLR0911 (one a message)
        match sender, message:
            case "runner", Begin():
                self._begun = not self._cloud
                return self._call_cloud() if self._cloud else self._gather(now)
            case "runner", ClientLost() | ClientFinished():
                self._membership.dead.add(self._membership.numbers[message.client])
                return self._gather(now)
            case "runner", ClientReturned(client=name):
                self._membership.dead.discard(self._membership.numbers[name])
                return []
            case "runner", Shutdown():
                return self._end()
            case "next", GlobalModel() if self._phase == "averaging":
                return [self._tasks.compute(AdoptGlobal(message))]
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
                current = message.current and self._scheme.client_parts == "aggregated"
                index, samples = self._membership.numbers[name], max(1, message.samples)
                newcomer = ClientState(name=name, index=index, samples=samples, current=current)
                change = self._membership.come(newcomer, message.round)
                return [Send(name, change)] if change else self._introduced(newcomer, message.mean_samples, now)
            case Shutdown() | Replaced():
                return self._without(name, now)
            case Activation() | Gradient() | RoundTrained() | RoundTested() | ClientUpdate():
                client = self._membership.members.get(name)
                return self._from_member(client, message, now) if client else []
        raise unexpected(message, name)

    def _from_member(self, client: ClientState, message: FromClient, now: float) -> list[Action]:
        """Take the message of a client of this round; training of a round that ended without it is dropped."""
        self._deadline.late.discard(client.name)
        match message:
            case Activation(train=False):
                return [self._tasks.compute(ServeTask(message, client.index), client)]
            case Activation() | Gradient():
                self._stats.uplink_bytes += sum(wire_size(message))
                if self._trains(client, message.assignment):
                    return [*self._tasks.take(client, message), *self._go_on(now)]
            case ClientUpdate():
                self._stats.uplink_bytes += sum(wire_size(message))
                if self._trains(client, message.round):
                    self._given[client] = message
                    self._check_complete(client)
            case RoundTrained() if not self._scheme.waits:
                client.phase = "idle"  # it goes on
            case RoundTrained() if self._trains(client, message.round):
                self._trained[client] = message
                client.reported = True
                self._check_complete(client)
            case RoundTested() if message.round == self._round.number:
                self._stats.add_tested(message)
                client.tested = message.round
                self._untested.discard(client.name)
        return self._go_on(now)

    def _trains(self, client: ClientState, round_number: int) -> bool:
        """Whether what ``client`` did for a round counts; where clients do not wait, it may be an earlier one."""
        due = client.phase == "training" and round_number == self._round.number
        return self._phase == "training" and (due or not self._scheme.waits)

    def computed(self, reply: Any, now: float) -> list[Action]:  # noqa: PLR0911 (one a reply)
        client = self._tasks.answered()
        match reply:
            case Gradient() if client:
                return [*self._tasks.send_gradient(client, reply, self._stats), *self._go_on(now)]
            case Activation() | Result() if client:
                return self._tasks.send_on(client, reply, self._stats)
            case JointReply() | JointStart():
                return [*self._tasks.stepped(reply, self._stats), *self._go_on(now)]
            case Handover():
                self._membership.sent()
                return [Send("next", reply), *self._gather(now)]
            case Adopted():
                return []
            case EdgeUpdate():
                self._phase = "averaging"
                return [Send("next", reply)]
            case ClientModel():
                self._part.value = reply if reply.tensors else self._part.value
                return self._upload() if self._to_cloud else self._averaged(now)
        raise unexpected(reply, "the worker")

    def _introduced(self, newcomer: ClientState, mean_samples: float, now: float) -> list[Action]:
        """Take up a client that has come; where clients do not wait, it begins at once, as far as the slowest."""
        self._round.steps = self._round.steps or max(1, int(mean_samples) // self._federation.job.batch_size)
        newcomer.seen = self._round.updates
        self._membership.newcomers[newcomer.name] = newcomer
        actions = self._gather(now)
        if self._scheme.waits or self._phase != "training" or newcomer.name not in self._membership.newcomers:
            return actions
        newcomer.total = min((client.total for client in self._round.clients), default=0)
        self._membership.admit(self._round.number)
        self._round.clients = list(self._membership.members.values())
        return self._go_on(now)

    def _gather(self, now: float) -> list[Action]:
        """Begin the round as soon as all are here that it waits for; if nobody is to come, pass it by."""
        if self._phase != "gathering" or not self._begun or not self._membership.gathered(self._round.number):
            return []
        if resumed := self._keeping.resume(self._membership.members):
            self._stats, self._all_train = resumed
            return self._averaged(now)
        self._phase = "training"
        self._select()
        self._stats = RoundStats(began=now, participants=len(self._round.clients))
        arrivals = self._membership.take(self._round.number)
        self._stats.moved_bytes = sum(sum(wire_size(handover)) for handover in arrivals)
        adopted = [self._tasks.compute(AdoptHandover(handover)) for handover in arrivals]
        begin = [*self._deadline.arm(now), *self._go_on(now)] if self._round.clients else [Wake(now, PASS)]
        return [*adopted, *begin]

    def _select(self) -> None:
        """Begin the round with the clients that the scheme selects."""
        present = list(self._membership.members.values())
        self._given, self._trained = {}, {}
        self._round.begin(present)
        able = self._deadline.selectable(present)
        self._round.clients = self._decisions.select(self._round, able) if self._scheme.waits else present
        for client in self._round.clients:
            client.phase = "idle"
        self._all_train = len(self._round.clients) == len(present)

    def _begin(self, now: float) -> list[Action]:
        """Begin the next round, or end."""
        if self._round.number == self._federation.rounds:
            return self._end()
        self._phase = "gathering"
        return [*self._release(), *self._gather(now)]

    def _release(self) -> list[Action]:
        """Send those on their way who belong elsewhere from this round on, and what is theirs after them."""
        actions: list[Action] = []
        for name, change, handover in self._membership.release(self._round.number):
            actions.append(self._tasks.compute(HandOver(handover)))
            actions += [Send(name, change)] if handover.here else []
        return actions

    def _go_on(self, now: float) -> list[Action]:
        """After an event: start clients, serve tasks, end what is over."""
        if self._phase == "testing" and not self._untested:
            return self._report(now)
        if self._phase != "training":
            return []
        started = self._decisions.start(self._round)
        actions = list(chain.from_iterable(self._start(client) for client in started))
        actions += [*self._tasks.serve(self._stats), *self._end_training(now)]
        if not actions and not self._tasks.busy:
            self._decisions.check_goes_on(self._round)
        return actions

    def _start(self, client: ClientState) -> list[Action]:
        client.phase = "training"
        return [*self._hand(client), Send(client.name, TrainRound(round=self._round.number, steps=self._round.steps))]

    def _hand(self, client: ClientState) -> list[Action]:
        """Send ``client`` the clients' part, unless it holds it or has it from its last server."""
        if (part := self._part.hand(client)) is None:
            return []
        self._stats.downlink_bytes += sum(wire_size(part))
        return [Send(client.name, part)]

    def _check_complete(self, client: ClientState) -> None:
        """Take note of a client that has done its part of the training; its part may be the next one's."""
        parts = self._scheme.client_parts
        if not client.reported or not (parts == "kept" or client in self._given):
            return
        client.phase, client.completed = "complete", self._round.number
        if parts == "handed on":
            self._count(client)
            given = self._given[client]
            self._part.value = client.holds = ClientModel(round=given.round, tensors=given.tensors)

    def _count(self, client: ClientState) -> None:
        """Count the training of a client that is complete."""
        if trained := self._trained.pop(client, None):
            self._stats.add_trained(trained, self._round.steps)
            self._stats.steps += self._round.steps if self._scheme.server_parts == "none" else 0

    def _end_training(self, now: float) -> list[Action]:
        """Aggregate what the scheme shares, once the round is over."""
        if self._phase != "training" or not self._decisions.is_over(self._round):
            return []
        if not self._scheme.waits:
            if self._tasks.busy:
                return []
            if self._round.number + 1 < self._federation.rounds and not self._stats.diverged:
                return self._count_anew(now)
        complete = self._round.of_phase("complete")
        if self._scheme.waits:
            self._deadline.check_complete(complete)
        for client in complete:
            self._count(client)
        self._stats.trained = now
        if self._stats.diverged:
            return self._report(now)
        self._samples += sum(client.samples for client in complete)
        self._phase = "averaging"
        self._to_cloud = self._cloud is not None and (self._round.number + 1) % self._federation.cloud_every == 0
        if complete and (self._scheme.client_parts == "aggregated" or self._scheme.server_parts == "copies"):
            given = {client: self._given[client].tensors if client in self._given else {} for client in complete}
            updates = tuple(Update(client.index, client.samples, tensors) for client, tensors in given.items())
            return [self._tasks.compute(Aggregate(self._round.number, updates))]
        return self._upload() if self._to_cloud else self._averaged(now)

    def _count_anew(self, now: float) -> list[Action]:
        """End a round which no client waits for: the next one begins with what is under way."""
        self._stats.trained = now
        report = self._stats.report(self._round.number, self._edge, now)
        self._round.number, self._round.served = self._round.number + 1, 0
        self._stats = RoundStats(began=now, participants=len(self._round.clients))
        return [Send("runner", report), *self._tasks.serve(self._stats)]

    def _upload(self) -> list[Action]:
        """Let the cloud aggregate what was trained here with what was elsewhere."""
        self._phase, self._to_cloud = "uploading", False
        part = self._part.value
        client = part.tensors if part and self._samples else {}
        update = EdgeUpdate(round=self._round.number, samples=self._samples, client=client)
        self._samples = 0
        return [self._tasks.compute(GiveEdgeUpdate(update))]

    def _averaged(self, now: float) -> list[Action]:
        """Hand on what was aggregated, and let all test."""
        actions = self._keeping.after(self._stats, self._membership.members, self._all_train)
        if self._scheme.client_parts == "aggregated":
            self._membership.admit(self._round.number)
            if self._all_train:  # else those get it that train next
                actions += chain.from_iterable(self._hand(client) for client in self._membership.members.values())
        self._stats.averaged = now
        every, last = self._federation.test_every, self._round.number + 1 == self._federation.rounds
        if not every or ((self._round.number + 1) % every and not last):
            return [*actions, *self._report(now)]
        self._phase = "testing"
        self._untested = self._membership.members.keys() - self._deadline.late
        for name in filter(self._untested.__contains__, self._membership.members):
            if part := self._part.lacking(self._membership.members[name]):
                actions.append(Send(name, part))  # for its tests: not counted, and handed on again to train
            actions.append(Send(name, TestRound(round=self._round.number)))
        return [*actions, *(self._deadline.arm(now) if self._untested else self._report(now))]

    def _report(self, now: float) -> list[Action]:
        report = Send("runner", self._stats.report(self._round.number, self._edge, now))
        if self._stats.diverged:
            return [report, *self._end()]
        self._round.number += 1
        return [report, *self._begin(now)]

    def _end(self) -> list[Action]:
        """Let all know; the cloud, which waits for every edge server, before this one finishes."""
        to_clients = [Send(name, Shutdown()) for name in sorted(self._membership.here)] if self._phase != "over" else []
        self._phase = "over"
        if not self._cloud:
            return [*to_clients, Finish()]
        return [*to_clients, *([Send("next", Shutdown()), Finish()] if self._begun else self._call_cloud())]

    def _call_cloud(self) -> list[Action]:
        called, self._calls = self._calls, True
        return [] if called else [Connect(self._cloud)]
