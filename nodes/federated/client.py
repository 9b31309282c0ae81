"""Role of a client of a federation: trains when its edge server says so; may drop out and come back.

The server begins a round and decides what follows. A client takes its steps, gives its part where the scheme shares
it, and tests when asked to.
"""

from collections.abc import Sequence
from typing import Any

from nodes.errors import unexpected
from nodes.federated.client_worker import (
    Adopted,
    AdoptPart,
    Answers,
    ClientData,
    CountAnswers,
    GivePart,
    ReturnGradient,
    TestBatch,
    TrainBatch,
)
from nodes.federated.keeping import RoundKeeping
from nodes.federated.schemes import scheme_of
from nodes.runtime.actions import Action, Connect, Direction, Finish, Role, Send, Wake
from nodes.spec.federation import Federation
from nodes.training.source import TailGradient, finishing
from nodes.wire.messages import (
    Activation,
    AnyMessage,
    Begin,
    ChangeServer,
    ClientHello,
    ClientModel,
    ClientUpdate,
    Gradient,
    Peer,
    Replaced,
    Result,
    RoundTested,
    RoundTrained,
    Shutdown,
    TestRound,
    TrainRound,
)

BACK = "back"


class Client(Role):
    """Client number ``client``, which begins with the first of the edge servers ``servers``."""

    def __init__(self, federation: Federation, client: int, servers: Sequence[Peer], data: ClientData) -> None:
        self.begun = data.begun
        self._data, self._window = data, federation.job.window
        self._returns = federation.job.tail is not None
        self._gives_part = scheme_of(federation).client_parts != "kept"
        self._keeping = RoundKeeping(federation, federation.client_names[client])
        self._edge = servers[0]
        self._servers = {server.name: server for server in servers}
        self._current = False  # it has been with its server since the clients' part was shared last
        self._absences = sorted((one.after_steps, one.for_s) for one in federation.absences if one.client == client)
        self._away = False  # until its server sends something
        self._since = 0  # first round at its server, as the last one said
        self._round, self._left = 0, 0  # of training: steps left, none if the server ended the round without it
        self._totals = {"loss": 0.0, "correct": 0.0, "count": 0.0}  # of the round's training
        self._tested_round, self._sent = 0, 0  # test batches
        self._tested: list[Answers] = []  # of these

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        self._left = 0
        hello = ClientHello(
            round=self._since,
            begun=self.begun,
            samples=self._data.samples,
            mean_samples=self._data.mean_samples,
            current=self._current,
        )
        return [Send("next", hello)]

    def lost(self, direction: Direction, now: float) -> list[Action] | None:
        return None  # an edge server that has ended tells its clients, those that come late too

    def woke(self, why: str, now: float) -> list[Action]:
        return [Connect(self._edge)]

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:  # noqa: PLR0911 (one a message)
        self._away &= sender != "next"
        match sender, message:
            case "runner", Begin():
                return [Connect(self._edge)]
            case "next", Gradient():
                return [ReturnGradient(message)] if self._trains(message) else []
            case "next", Result():
                return [CountAnswers(message)]
            case "next", Activation() if self._returns:
                return [finishing(message)] if not message.train or self._trains(message) else []
            case "next", ClientModel():
                self._current, self._left = True, 0
                return [AdoptPart(message)]
            case "next", TestRound():
                return self._test(message.round)
            case "next", TrainRound():
                self._current = True
                self._round, self._left = message.round, message.steps
                self._totals = dict.fromkeys(self._totals, 0.0)
                return self._train(now)
            case "next", ChangeServer() if message.server in self._servers:
                self._away, self._edge, self._since = True, self._servers[message.server], message.round
                return [Connect(self._edge)]
            case "next" | "runner", Shutdown() | Replaced():
                return [Finish()]
        raise unexpected(message, sender)

    def computed(self, reply: Any, now: float) -> list[Action]:
        match reply:
            case _ if self._away or isinstance(reply, Adopted):
                return []
            case Activation():
                return [Send("next", reply)]
            case ClientUpdate():
                return [Send("next", reply), *self._keeping.after(reply.round)]
            case TailGradient(gradient):
                return [Send("next", gradient)]
            case Gradient():
                return self._trained(reply, now)
            case Answers():
                return self._count_answers(reply)
        raise unexpected(reply, "the worker")

    def _train(self, now: float) -> list[Action]:
        """Begin the next step, or drop out."""
        if self._absences and self.begun >= self._absences[0][0]:
            _, for_s = self._absences.pop(0)
            self._away, self._current, self._since = True, False, 0
            return [Connect(None), Wake(now + for_s, BACK)]
        self.begun += 1
        return [TrainBatch(self._round, self.begun - 1)]

    def _trains(self, returned: Gradient | Activation) -> bool:
        """Whether what has ``returned`` is of the present round, and that has steps left."""
        return self._left > 0 and returned.assignment == self._round

    def _trained(self, gradient: Gradient, now: float) -> list[Action]:
        if not self._trains(gradient):
            return []
        for name in self._totals:
            self._totals[name] += gradient.metrics.get(name, 0.0)
        self._left -= 1
        if self._left:
            return self._train(now)
        done = RoundTrained(round=self._round, **self._totals)
        last = [GivePart(self._round)] if self._gives_part else self._keeping.after(self._round)
        return [Send("next", done), *last]

    def _test(self, round_number: int) -> list[Action]:
        """Fill the window with test batches. A step under way, if training ended for all, is this client's last."""
        self._left = min(self._left, 1)
        self._tested_round, self._sent, self._tested = round_number, 0, []
        return self._fill()

    def _fill(self) -> list[Action]:
        free = min(len(self._tested) + self._window, self._data.test_batches) - self._sent
        batches = range(self._sent, self._sent + free)
        self._sent += free
        return [TestBatch(self._tested_round, batch) for batch in batches]

    def _count_answers(self, answers: Answers) -> list[Action]:
        self._tested.append(answers)
        if len(self._tested) < self._data.test_batches:
            return self._fill()
        correct, total = (sum(one[1:], one[0]) for one in zip(*self._tested, strict=True))
        tested = RoundTested(round=self._tested_round, correct_by_class=correct, total_by_class=total)
        return [Send("next", tested), *self._keeping.tested(tested.round)]
