"""What does any node of an inference service decide? How far to compute a task, from its own split alone.

HiveMind, section IV-C3: split-cost information runs upstream, tasks run downstream, and each task's message says
how many layers are done. A node looks up in its own split where to stop from there, computes so far or nothing,
and hands on. Nobody holds the whole assignment, and inference weights are everywhere: so a route may change
between tasks, and its new neighbours need one SCI message and nothing else. A route is set up from the UE on: a
node reaches for its neighbour downstream once it has one upstream, so a new way disturbs no task on the old one.

A node that has no neighbour downstream does all that is left. While it waits for one, or for that one's first
SCI, it holds tasks back. If its neighbour dies it tries the next on its route, and tells upstream which tasks
went down with it; the UE starts those again. One that hangs is left as if it had died, once a task is overdue.
"""

from abc import ABC, abstractmethod
from typing import Literal

from nodes.errors import ProtocolError
from nodes.inference.task import layers_done
from nodes.runtime.actions import Action, Connect, Direction, Finish, Send, Wake
from nodes.splitting.controller import SplitControl
from nodes.wire.messages import Activation, AnyMessage, Peer, Result, Route, Shutdown, SplitCost
from nodes.wire.split_costs import costs_of

OVERDUE = "overdue "  # before an alarm's number


class ServiceNode(ABC):
    """What the UE and the nodes below it have in common: a split of their own, and a way downstream."""

    def __init__(self, name: str, control: SplitControl, deliver: bool) -> None:
        self.control = control
        self.route: tuple[Peer, ...] = ()  # the neighbour downstream, and those behind it
        self._name = name
        self._deliver = deliver  # whether results go on to the last node
        self._down: Literal["none", "joining", "silent", "heard"] = "silent"  # nothing is known yet
        self._wanted: tuple[Peer, ...] | None = None  # a route to be taken once no task is under way
        self._passed: dict[int, int] = {}  # tasks handed on and not come back: step -> layers done
        self._alarms: dict[int, str] = {}  # why each of them would wake this node if it were overdue
        self._alarm = 0  # the number of the last
        self._update_number = 0
        self._ticking = False

    @property
    def _under_way(self) -> bool:
        """Whether a task that was split for this route is not back yet."""
        return bool(self._passed)

    @property
    def _ready(self) -> bool:
        """Whether tasks may go their way."""
        return self._wanted is None and self._down in ("none", "heard")

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a neighbour's or the runner's word. Raises ProtocolError for what fits no state."""
        match sender, message:
            case "down", SplitCost():
                return self._hear(message, now)
            case "down", Result():
                return self._returned(message, now) + self._reroute(now)
            case "runner", SplitCost():
                return self._begin_update(message.assignment, now)
            case "runner", Route():
                self._wanted = message.nodes
                return self._tick(now) + self._reroute(now)
            case "runner", Shutdown():
                return [Finish()]
            case "down", Shutdown():  # it is another's neighbour now
                self.route = ()
                return self.lost("down", now)
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        self._down = "silent"
        return []

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        return []  # what results take tells nothing of the way down

    def lost(self, direction: Direction, now: float) -> list[Action]:
        """Try the next node of the route; tasks that went to the one that is lost will not come back."""
        route = self.route[1:] if self._wanted is None else self._wanted
        steps, self._wanted = list(self._passed), None
        self._passed.clear()
        rerouting = self._take_route(route, now)
        return [*rerouting, *(action for step in steps for action in self._missing(step, now))]

    def woke(self, why: str, now: float) -> list[Action]:
        """Look at the link again, or, on the last node, begin an update; or at what is long overdue."""
        policy = self.control.policy
        if why.startswith(OVERDUE):
            self._alarms = {step: alarm for step, alarm in self._alarms.items() if step in self._passed}
            return self.lost("down", now) if why in self._alarms.values() else []
        if why == "update" and policy.period_s is not None:
            due = self._begin_update(self._update_number + 1, now) if self._down == "none" else []
            return [Wake(now + policy.period_s, why), *due]
        if why == "check" and policy.check_s is not None:
            return [Wake(now + policy.check_s, why), *self._update(now)]
        return []

    def _tick(self, now: float) -> list[Action]:
        policy = self.control.policy
        times = {} if self._ticking else {"update": policy.period_s, "check": policy.check_s}
        self._ticking = True
        return [Wake(now + wait_s, why) for why, wait_s in times.items() if wait_s is not None]

    def _reroute(self, now: float) -> list[Action]:
        """Take the route that is wanted, if no task is under way on the old one."""
        if self._wanted is None or self._down == "joining" or self._under_way:
            return []
        route, self._wanted = self._wanted, None
        same = "none" if not route else "heard" if route[:1] == self.route[:1] else None
        if self._down == same:
            self.route = route
            return self._go_on(now)
        return self._take_route(route, now)

    def _take_route(self, route: tuple[Peer, ...], now: float) -> list[Action]:
        self.route = route
        self.control.set_downstream(None)
        if route:
            self._down = "joining"
            return [Connect(route[0])]
        self._down = "none"
        return [Connect(None), *self._begin_update(self._update_number + 1, now), *self._go_on(now)]

    def _hear(self, message: SplitCost, now: float) -> list[Action]:
        self._down = "heard"
        self._update_number = message.assignment
        try:
            self.control.set_downstream(costs_of(message))
        except ValueError as error:
            raise ProtocolError(f"{message.node}: {error}") from None
        return [*self._update(now), *self._reroute(now), *self._go_on(now)]

    def _begin_update(self, number: int, now: float) -> list[Action]:
        self._update_number = number
        self.control.forget_sent()
        return self._update(now)

    def _hand_on(self, message: Activation, now: float) -> list[Action]:
        """Send a task down. It is overdue later here than at any node below, so that the one next to a hung node acts.

        What the tasks under way should take, links at their rates included, doubles on the way before patience ends.
        """
        done = self._passed[message.step] = layers_done(message, self.control.layers)
        patience_s = self.control.policy.patience_s
        if patience_s is None:
            return [Send("down", message)]
        expected_s = len(self._passed) * self.control.downstream_s(done)
        self._alarm += 1
        alarm = self._alarms[message.step] = f"{OVERDUE}{self._alarm}"
        return [Send("down", message), Wake(now + 2 * expected_s + len(self.route) * patience_s, alarm)]

    def _ends(self, done: int) -> bool:
        """Whether a task ends here, once ``done`` layers are."""
        return done == self.control.layers and (not self._deliver or self._down == "none")

    @abstractmethod
    def _update(self, now: float) -> list[Action]:
        """Update the split, and tell of it."""

    @abstractmethod
    def _go_on(self, now: float) -> list[Action]:
        """Take up what waited for the way downstream."""

    @abstractmethod
    def _returned(self, result: Result, now: float) -> list[Action]:
        """Take what came of a task from downstream."""

    @abstractmethod
    def _missing(self, step: int, now: float) -> list[Action]:
        """A task that was handed on will not come back."""
