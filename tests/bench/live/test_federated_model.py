"""Small federations as a model: the roles and the runner's decisions over every order of messages and of deaths.

Nothing runs here: a message waits in its channel until the model hands it over. In every order the run comes to its
end, or to an error with a reason; a state in which nothing can happen any more is a run that waits for ever.
"""

import pickle
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from federations import make_federation

from bench.live.federated import LiveFederation
from bench.live.processes import RunError
from bench.live.shaping import Shaping
from nodes.federated.client import Client
from nodes.federated.client_worker import Adopted, AdoptPart, ClientData, GivePart, ReturnGradient, TrainBatch
from nodes.federated.cloud import AggregateEdges, Cloud
from nodes.federated.edge.joint_step import JointReply
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import (
    AdoptGlobal,
    AdoptHandover,
    Aggregate,
    GiveEdgeUpdate,
    HandOver,
    JointStep,
    ServeTask,
)
from nodes.runtime.actions import Action, Compute, Connect, Finish, Role, Send, Wake
from nodes.spec.federation import CLOUD, ClientMove, Federation
from nodes.wire.messages import (
    Activation,
    Begin,
    ClientFinished,
    ClientModel,
    ClientUpdate,
    GlobalModel,
    Gradient,
    Peer,
    Replaced,
    Shutdown,
)

RUNNER, JOINED, LOST, REPORT, DIED = "runner", "joined", "lost", "report", "died"
METRICS = {"count": 8.0, "loss": 1.0, "correct": 4.0}


def finished(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, which waits for nothing in the model."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


def reply(call: Compute) -> Any:  # noqa: PLR0911 (one a computation)
    """The reply of a worker, without tensors."""
    match call:
        case TrainBatch(round_number, number):
            return Activation(assignment=round_number, step=number, train=True, tensors={})
        case ReturnGradient(message) | ServeTask(message):
            return Gradient(assignment=message.assignment, step=message.step, metrics=METRICS, tensors={})
        case JointStep(messages):
            gradients = [reply(ReturnGradient(one)) for one in messages]
            return JointReply(gradients, forward_samples=8.0, backward_samples=8.0, backward_s=0.1)
        case GivePart(round_number):
            return ClientUpdate(round=round_number, samples=8, tensors={})
        case AdoptPart() | AdoptHandover():
            return Adopted()
        case HandOver(handover):
            return handover
        case GiveEdgeUpdate(update):
            return update
        case Aggregate():
            return ClientModel(round=0, tensors={})
        case AdoptGlobal(model):
            return ClientModel(round=model.round, tensors={})
        case AggregateEdges(updates):
            return GlobalModel(round=updates[0].round, server={}, client={})
    raise AssertionError(call)


class Runner(LiveFederation):
    """The runner, whose words go into channels of the model."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, Shaping((), (), 0, ()))
        self._crews = {name: (name,) for name in federation.names}
        self._early = {name: [] for name in federation.names}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:  # type: ignore[override]  # makes no task, see below
        """Drop ``work``: heartbeats, which are in no order of messages that the model explores."""
        work.close()


class Control:
    """The runner's end of a channel."""

    def __init__(self, words: list[Any]) -> None:
        self._words = words

    async def send(self, message: Any) -> None:
        self._words.append(message)


class World:
    """A federation at one moment. ``channels`` hold what is on its way, by sender and receiver."""

    def __init__(self, federation: Federation, deaths: int) -> None:
        self.federation, self.deaths = federation, deaths
        self.runner = Runner(federation)
        self.roles: dict[str, Role] = {name: self._role(name) for name in federation.names}
        self.channels: dict[tuple[str, str], list[Any]] = {}
        self.set_up: set[str] = set()
        self.calling: dict[str, str] = {}  # nodes that are to connect, and to whom
        self.next: dict[str, str] = {}
        self.dead: set[str] = set()
        self.over: set[str] = set()  # roles that have finished
        self.phase = "gathering"

    def _role(self, name: str) -> Role:
        servers = [Peer(server) for server in self.federation.servers_of(name)]
        if name == CLOUD:
            return Cloud(self.federation)
        if name in self.federation.edge_names:
            return EdgeServer(self.federation, self.federation.edge_names.index(name), *servers)
        data = ClientData(samples=8, mean_samples=8.0, test_batches=1)
        return Client(self.federation, self.federation.client_names.index(name), servers, data)

    def events(self) -> list[tuple[str, ...]]:
        """All that can happen next."""
        names = self.federation.names
        found = [("set up", name) for name in names if name not in self.set_up | self.dead]
        found += [("hand over", *ends) for ends, words in self.channels.items() if words and self._hears(ends[1])]
        found += [("connect", name, peer) for name, peer in self.calling.items() if peer in self.set_up]
        if self.deaths:
            found += [("die", name) for name in self.federation.client_names if name not in self.dead]
        lost, servers = self.runner.lost.keys(), set(self.runner._servers)
        if self.phase == "gathering" and self.set_up | lost >= set(names):
            found.append(("begin",))
        if self.phase == "running" and self.runner.reported >= servers:
            found.append(("shut down",))
        return found

    def _hears(self, name: str) -> bool:
        return name == RUNNER or name in self.set_up - self.dead

    @property
    def ended(self) -> bool:
        return self.phase == "ending" and self.runner.reported | self.runner.ended >= set(self.federation.names)

    def do(self, event: tuple[str, ...]) -> None:
        """Let ``event`` happen. Raises RunError where the runner would."""
        match event:
            case ("set up", name):
                self.set_up.add(name)
                finished(self.runner._set_up(name, Control(self._channel(RUNNER, name)), None))  # type: ignore[arg-type]  # a channel of the model
                self._channel(RUNNER, name).pop(0)  # the set-up message
            case ("begin",):
                self.phase = "running"
                self._say_to_all(Begin(), self.federation.names)
            case ("shut down",):
                self.phase = "ending"
                self._say_to_all(Shutdown(), set(self.federation.names) - self.runner.reported)
            case ("die", name):
                self.deaths -= 1
                self.dead.add(name)
                self.calling.pop(name, None)
                self._channel(name, RUNNER).append(DIED)
                if name in self.next:
                    self._channel(name, self.next.pop(name)).append(LOST)
            case ("connect", name, peer):
                del self.calling[name]
                if peer in self.over:  # a finished server shuts late clients down
                    self._act(name, self.roles[name].joined("next", peer, 0.0))
                    self._channel(peer, name).append(Shutdown())
                else:
                    self.next[name] = peer
                    self._channel(name, peer).append(JOINED)
                    self._act(name, self.roles[name].joined("next", peer, 0.0))
            case ("hand over", sender, receiver):
                self._hand_over(sender, receiver, self.channels[sender, receiver].pop(0))

    def _say_to_all(self, message: Any, names: Any) -> None:
        for name in sorted(names):
            finished(self.runner.send(name, message))

    def _hand_over(self, sender: str, receiver: str, word: Any) -> None:
        if receiver == RUNNER:
            return self._hear(sender, word)
        if receiver in self.over:
            return None
        role = self.roles[receiver]
        came_down = sender not in (RUNNER, *self.federation.servers_of(receiver))
        if sender != RUNNER and not came_down and self.next.get(receiver) != sender:
            return None  # of a server that it has left
        direction = sender if sender == RUNNER or came_down else "next"
        match word:
            case "joined":
                return self._act(receiver, role.joined(direction, sender, 0.0))
            case "lost":
                return self._act(receiver, role.lost(direction, 0.0) or [])
        return self._act(receiver, role.receive(direction, word, 0.0))

    def _hear(self, name: str, word: Any) -> None:
        if word == DIED:
            self.runner.ended.add(name)
            finished(self.runner.gone(name, RunError(f"{name} was killed", weight=2)))
        elif word == REPORT:
            self.runner.reported.add(name)
        else:
            finished(self.runner.heard(name, word))

    def _act(self, name: str, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    receiver = self.next.get(name) if to == "next" else to
                    if receiver is not None:
                        self._channel(name, receiver).append(message)
                case Connect(peer):
                    if name in self.next:
                        self._channel(name, self.next.pop(name)).append(Replaced())
                    if peer is not None:
                        self.calling[name] = peer.name
                case Wake(at, why):
                    self._act(name, self.roles[name].woke(why, at))
                case Finish():
                    self._finish(name)
                case Compute():
                    self._act(name, self.roles[name].computed(reply(action), 0.0))

    def _finish(self, name: str) -> None:
        self.over.add(name)
        self.calling.pop(name, None)
        if name in self.federation.client_names:
            self._channel(name, RUNNER).append(ClientFinished(client=name))
            if name in self.next:
                self._channel(name, self.next.pop(name)).append(LOST)
        self._channel(name, RUNNER).append(REPORT)

    def _channel(self, sender: str, receiver: str) -> list[Any]:
        return self.channels.setdefault((sender, receiver), [])


def check(world: World) -> None:
    """Fail with what everyone waits for, unless the run has come to its end."""
    waiting = [name for name in world.roles if name not in world.over | world.dead]
    assert world.ended, f"{world.phase}: {waiting} wait for ever; {world.runner.lost}, {world.runner.reported}"


def explore(state: bytes, detours: int) -> int:
    """Let always the first event happen but for so many ``detours`` to another one; the number of orders."""
    orders = 1
    world = pickle.loads(state)
    while events := world.events():
        for other in events[1:] if detours else ():
            orders += explore(pickle.dumps(after), detours - 1) if (after := taken(pickle.dumps(world), other)) else 1
        try:
            world.do(events[0])
        except RunError:
            return orders
    check(world)
    return orders


def taken(state: bytes, event: tuple[str, ...]) -> World | None:
    """The world after ``event``; None where the run ends with a reason."""
    world: World = pickle.loads(state)
    try:
        world.do(event)
    except RunError:
        return None
    return world


def wander(federation: Federation, deaths: int, seed: int) -> int:
    """Go through one order of events, drawn from ``seed``; those of one kind may come all early or all late.

    Returns their number. Asserts that the run is over where nothing can happen any more.
    """
    draw = random.Random(seed)
    world, weights = World(federation, deaths), {kind: 8 ** draw.uniform(-1, 1) for kind in KINDS}
    done = 0
    while events := world.events():
        done += 1
        try:
            world.do(draw.choices(events, [weights[event[0]] for event in events])[0])
        except RunError:
            return done
    check(world)
    return done


KINDS = ("set up", "hand over", "connect", "die", "begin", "shut down")
MOVES = (ClientMove(0, 1, 1), ClientMove(2, 2, 0))
FEDERATIONS = {
    "one edge server": {"clients": 3},
    "two edge servers": {"clients": 4, "edges": 2},
    "moves": {"clients": 3, "edges": 2, "rounds": 3, "moves": MOVES},
}


def federation_of(scheme: str, **changes: Any) -> Federation:
    return make_federation(scheme, **{"local_steps": 1, "test_every": 0} | changes)


@pytest.mark.promise(
    "Nodes", "messages and deaths of two clients in every order with up to two detours", "every order ends"
)
def test_two_clients_in_every_order_with_two_detours() -> None:
    world = World(federation_of("psl", clients=2, rounds=1), deaths=1)
    assert explore(pickle.dumps(world), detours=2) > 300


@pytest.mark.parametrize("scheme", ["sl", "psl", "sflv1"])
@pytest.mark.parametrize("form", FEDERATIONS)
@pytest.mark.promise("Nodes", "messages, moves and up to two deaths in orders drawn at random", "every order ends")
def test_larger_federations_in_orders_drawn_at_random(form: str, scheme: str) -> None:
    federation = federation_of(scheme, **FEDERATIONS[form])
    assert all(wander(federation, deaths=seed % 3, seed=seed) for seed in range(40))
