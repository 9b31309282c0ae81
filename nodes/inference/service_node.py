"""Base of the roles in an inference service: a split of the node's own, and its state towards the next node.

HiveMind, section IV-C3: split-cost information (SCI) runs towards the UE, tasks run away from it, and each task's
message has the number of layers done. A node looks up in its own split where to stop from there, computes so far or
nothing, and hands on. No node knows the whole assignment, and every node has all weights: so a route may change between
tasks, and its new neighbours need one SCI message and nothing else. A route is set up from the UE on: a node without a
previous one connects to nobody, so a new route disturbs no task on the old one.

The last node of a route does all that is left. A node whose next node is lost tries the one after it, and reports
upstream the tasks lost with it; the UE starts those again. A next node that hangs is lost once a task is overdue.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from nodes.errors import ProtocolError, unexpected
from nodes.runtime.actions import Action, Connect, Direction, Finish, Role, Send, Wake
from nodes.splitting.controller import SplitControl
from nodes.wire.messages import (
    Activation,
    AnyMessage,
    BeginUpdate,
    Peer,
    Replaced,
    Result,
    Route,
    Shutdown,
    SplitCost,
    TaskLost,
)
from nodes.wire.split_costs import set_downstream

DONE = "done."  # before a node's name in a result's metrics: layers done when the task left that node
MOST_LAYERS = 1 << 32
OVERDUE = "overdue "  # before an alarm's number


def splits_of(result: Result) -> dict[str, int]:
    """Layers done when the task left each node that it reached, as ``result`` says. Raises ProtocolError."""
    if odd := [key for key, value in result.metrics.items() if key.startswith(DONE) and not 0 <= value < MOST_LAYERS]:
        raise ProtocolError(f"result of task {result.step}: {odd[0]} is {result.metrics[odd[0]]}")
    return {key.removeprefix(DONE): int(value) for key, value in result.metrics.items() if key.startswith(DONE)}


def layers_done(message: Activation, layers: int) -> int:
    """The boundary that a task has reached, out of ``layers``. Raises ProtocolError."""
    if message.done is None or not 0 <= message.done <= layers:
        raise ProtocolError(f"task {message.step} came with {message.done} of {layers} layers done")
    return message.done


class State(Enum):
    """State of a node towards its next node."""

    UNROUTED = "unrouted"  # no route so far
    WAITING = "waiting"  # no next node, and a route to take
    JOINING = "joining"  # connects to the next node
    SILENT = "silent"  # the next node has not told its costs: tasks are held
    OPEN = "open"  # tasks are handed on
    LAST = "last"  # the route ends here


UNROUTED, WAITING, JOINING, SILENT, OPEN, LAST = State
Event = tuple[str, Any]  # its source, and the type of a message or what else happened
# By event: what is done, and the next state by each state that expects the event.
Transitions = dict[Event, tuple[Callable[[Any, Any, float], list[Action]], Mapping[State, State]]]


class _Handed(NamedTuple):
    """A task handed on: layers done when it left, and the name of its alarm."""

    done: int
    alarm: str


class ServiceNode(Role):
    """What the UE and the nodes behind it have in common. ``transitions`` are ``TRANSITIONS`` and those of its own."""

    transitions: ClassVar[Transitions]

    def __init__(self, name: str, control: SplitControl, deliver: bool) -> None:
        self.control = control
        self.state = UNROUTED
        self.route: tuple[Peer, ...] = ()  # the next node, and those behind it
        self._name = name
        self._deliver = deliver  # whether results go on to the last node
        self._wanted: tuple[Peer, ...] | None = None  # a route to take once no task is under way
        self._handed: dict[int, _Handed] = {}  # tasks that are not back, by step
        self._alarm = 0  # number of the last alarm
        self._update_number = 0

    @property
    def _open(self) -> bool:
        """Whether tasks may go on."""
        return self._wanted is None and self.state in (OPEN, LAST)

    @property
    def _busy(self) -> bool:
        """Whether a new route has to wait, as for a task that was split for the present one."""
        return bool(self._handed)

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        if (sender, type(message)) not in self.transitions:
            raise unexpected(message, sender)
        return self._on((sender, type(message)), message, now)

    def computed(self, reply: Any, now: float) -> list[Action]:
        if not isinstance(reply, Activation):
            raise unexpected(reply, "a computation")
        return self._computed(reply, now) + self._settle(now)

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        return self._on((direction, "joined"), peer, now)

    def lost(self, direction: Direction, now: float) -> list[Action]:
        return self._on((direction, "lost"), None, now)

    def woke(self, why: str, now: float) -> list[Action]:
        """Give up the next node if a task is overdue there."""
        overdue = why in (handed.alarm for handed in self._handed.values())
        return self.lost("next", now) if overdue else []

    def _on(self, event: Event, what: Any, now: float) -> list[Action]:
        """Do what is to be done on ``event``. Raises ProtocolError in a state that does not expect it."""
        act, states = self.transitions[event]
        if self.state not in states:
            raise ProtocolError(f"{self._name}: unexpected {event} in state {self.state.value}")
        self.state = states[self.state]
        actions: list[Action] = act(self, what, now)
        return actions + self._settle(now)

    def _settle(self, now: float) -> list[Action]:
        """Take the route that is wanted, or go on with tasks, as soon as that may be."""
        route = self._wanted
        if route is not None and not self._busy:
            keeps = self.state is not WAITING and route[:1] == self.route[:1]
            event = "route", "keep" if keeps else "connect" if route else "end"
            if self.state in self.transitions[event][1]:
                self.route, self._wanted = route, None
                return self._on(event, None, now)
        return self._go_on(now) if self._open else []

    # What is done on an event

    def _want(self, message: Route, now: float) -> list[Action]:
        self._wanted = message.nodes
        return []

    def _connect(self, _: None, now: float) -> list[Action]:
        self.control.set_downstream(None)
        return [Connect(self.route[0])]

    def _end(self, _: None, now: float) -> list[Action]:
        self.control.set_downstream(None)
        return [Connect(None), *self._begin_update(self._update_number + 1, now)]

    def _lose(self, message: Replaced | Shutdown | None, now: float) -> list[Action]:
        """Try the node after the next one, unless that has ``message``: then all behind are on another route."""
        if self._wanted is None:
            self._wanted = () if message else self.route[1:]
        steps = list(self._handed)
        self._handed.clear()
        return [*self._settle(now), *(action for step in steps for action in self._missing(step, now))]

    def _hear(self, message: SplitCost, now: float) -> list[Action]:
        self._update_number = message.assignment
        set_downstream(self.control, message)
        return self._update(now)

    def _back(self, message: Result, now: float) -> list[Action]:
        handed = self._handed.pop(message.step, None)  # None: from before its node was lost
        return self._returned(message, handed.done, now) if handed else []

    def _gone(self, message: TaskLost, now: float) -> list[Action]:
        return self._missing(message.step, now) if self._handed.pop(message.step, None) else []

    def _begin_update(self, number: int, now: float) -> list[Action]:
        self._update_number = number
        self.control.forget_sent()
        return self._update(now)

    # Tasks

    def _hand_on(self, message: Activation, now: float) -> list[Action]:
        """Send a task on. It is overdue later here than at any node behind, so that the one next to a hung node acts.

        What the tasks under way should take, links at their rates included, doubles on the way before patience ends.
        """
        self._alarm += 1
        done, alarm = layers_done(message, self.control.layers), f"{OVERDUE}{self._alarm}"
        self._handed[message.step] = _Handed(done, alarm)
        patience_s = self.control.policy.patience_s
        if patience_s is None:
            return [Send("next", message)]
        expected_s = len(self._handed) * self.control.downstream_s(done)
        return [Send("next", message), Wake(now + 2 * expected_s + len(self.route) * patience_s, alarm)]

    def _ends(self, done: int) -> bool:
        """Whether a task ends here, once ``done`` layers are."""
        return done == self.control.layers and (not self._deliver or self.state is LAST)

    @abstractmethod
    def _computed(self, message: Activation, now: float) -> list[Action]:
        """Take a task that was computed."""

    @abstractmethod
    def _update(self, now: float) -> list[Action]:
        """Update the split, and tell of it."""

    @abstractmethod
    def _go_on(self, now: float) -> list[Action]:
        """Take up tasks that were held, and new ones."""

    @abstractmethod
    def _returned(self, result: Result, done: int, now: float) -> list[Action]:
        """Take the result of a task that was handed on with ``done`` layers done."""

    @abstractmethod
    def _missing(self, step: int, now: float) -> list[Action]:
        """Take note that a task that was handed on will not come back."""


ANY = {state: state for state in State}
TRANSITIONS: Transitions = {
    ("runner", Route): (ServiceNode._want, ANY | {UNROUTED: WAITING}),
    ("runner", BeginUpdate): (lambda node, asked, now: node._begin_update(asked.number, now), {OPEN: OPEN, LAST: LAST}),
    ("runner", Shutdown): (lambda *_: [Finish()], ANY),
    ("next", "joined"): (lambda *_: [], {JOINING: SILENT}),
    ("next", "lost"): (ServiceNode._lose, {JOINING: WAITING, SILENT: WAITING, OPEN: WAITING}),
    ("next", Replaced): (ServiceNode._lose, {SILENT: WAITING, OPEN: WAITING}),
    ("next", Shutdown): (ServiceNode._lose, {SILENT: WAITING, OPEN: WAITING}),
    ("next", SplitCost): (ServiceNode._hear, {SILENT: OPEN, OPEN: OPEN}),
    ("next", Result): (ServiceNode._back, {SILENT: SILENT, OPEN: OPEN}),
    ("next", TaskLost): (ServiceNode._gone, {SILENT: SILENT, OPEN: OPEN}),
    # A route is taken: with the same next node or still none, with another next node, or with none.
    ("route", "keep"): (lambda *_: [], {JOINING: JOINING, SILENT: SILENT, OPEN: OPEN, LAST: LAST}),
    ("route", "connect"): (ServiceNode._connect, dict.fromkeys((WAITING, SILENT, OPEN, LAST), JOINING)),
    ("route", "end"): (ServiceNode._end, dict.fromkeys((WAITING, SILENT, OPEN), LAST)),
}
