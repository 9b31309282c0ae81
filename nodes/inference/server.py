"""Role of a node behind the UE in an inference service: how far a task runs there, and the costs told upstream."""

from collections.abc import Callable

import msgspec

from nodes.errors import ProtocolError
from nodes.inference.service_node import ANY, DONE, LAST, OPEN, TRANSITIONS, UNROUTED, ServiceNode, layers_done
from nodes.inference.whole_model import Forward
from nodes.runtime.actions import Action, Direction, Send, Wake
from nodes.splitting.controller import SplitControl
from nodes.splitting.forecast import LookAhead
from nodes.splitting.link_estimates import CostEstimate, LinkEstimates
from nodes.wire.messages import Activation, AnyMessage, LinkState, Replaced, Result, Route, Shutdown, TaskLost
from nodes.wire.split_costs import sci

Backlog = Callable[[float], float]  # seconds that a task waits at a node, by the time of its arrival


def no_backlog(now: float) -> float:
    """The backlog of a node without a queue, or of one that does not tell it."""
    return 0.0


class ServiceServer(ServiceNode):
    """A node behind the UE. ``estimates`` has the incoming link's costs by the previous node's name.

    Where they are ``LinkEstimates``, they learn what the runner tells of links and what transfers take. ``backlog_s``
    of the node's queue is part of the costs told upstream.
    """

    def __init__(
        self,
        name: str,
        control: SplitControl,
        estimates: Callable[[str], CostEstimate] | LinkEstimates,
        deliver: bool = False,
        backlog_s: Backlog = no_backlog,
    ) -> None:
        super().__init__(name, control, deliver)
        self._estimates, self._backlog_s = estimates, backlog_s
        self._estimate: CostEstimate | None = None  # of the link from the previous node, if there is one
        self._previous = ""  # its name
        self._held: list[Activation] = []
        self._updated_s = 0.0
        self._look_ahead = LookAhead(control.policy.gap_tasks)

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        policy = self.control.policy
        times = {"update": policy.period_s, "check": policy.check_s}
        if self.state is not UNROUTED or not isinstance(message, Route):
            times = {}
        wakes = [Wake(now + wait_s, why) for why, wait_s in times.items() if wait_s is not None]
        return [*wakes, *super().receive(sender, message, now)]

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        if direction == "previous" and isinstance(self._estimates, LinkEstimates):
            self._estimates.observe(self._previous, wire_bytes, wire_s, now)
        return []

    def woke(self, why: str, now: float) -> list[Action]:
        """Look at the incoming link again, or on the last node begin an update."""
        policy = self.control.policy
        if why == "update" and policy.period_s is not None:
            due = self._begin_update(self._update_number + 1, now) if self.state is LAST else []
            return [Wake(now + policy.period_s, why), *due]
        if why == "check" and policy.check_s is not None:
            return [Wake(now + policy.check_s, why), *self._update(now)]
        return super().woke(why, now)

    @property
    def _busy(self) -> bool:
        """A node without a previous one connects to nobody: the next node may still be another's."""
        return super()._busy or (self._estimate is None and bool(self._wanted))

    # What is done on an event

    def _task(self, message: Activation, now: float) -> list[Action]:
        self._look_ahead.observe(self._updated_s, now)
        return self._take(message, now)

    def _learn(self, message: LinkState, now: float) -> list[Action]:
        if not isinstance(self._estimates, LinkEstimates):
            return []
        self._estimates.set_link(message.upper, message.link)
        return self._update(now) if message.upper == self._previous else []

    def _join(self, peer: str, now: float) -> list[Action]:
        try:
            self._estimate, self._previous = self._estimates(peer), peer
        except KeyError:
            raise ProtocolError(f"{peer} connected, no link leads from there to {self._name}") from None
        self.control.forget_sent()
        return self._update(now)

    def _leave(self, message: Replaced | Shutdown | None, now: float) -> list[Action]:
        self._estimate = None
        return []

    # Tasks

    def _update(self, now: float) -> list[Action]:
        """Update the split and tell the previous node, if there is one and the change is worth a message."""
        if self._estimate is None or self.state not in (OPEN, LAST):
            return []
        self.control.update(self._estimate(now, self._look_ahead.gap_s), self._backlog_s(now))
        self._updated_s = now
        cost_s = self.control.next_update(now)
        return [] if cost_s is None else [Send("previous", sci(self._update_number, self._name, cost_s))]

    def _go_on(self, now: float) -> list[Action]:
        held, self._held = self._held, []
        return [action for message in held for action in self._take(message, now)]

    def _take(self, message: Activation, now: float) -> list[Action]:
        """Compute a task as far as it is to run here, or hold it."""
        done = layers_done(message, self.control.layers)
        if not self._open:
            self._held.append(message)
            return []
        stop = self.control.take_stop(done)
        return [Forward(message, stop)] if stop > done else self._computed(message, now)

    def _computed(self, message: Activation, now: float) -> list[Action]:
        done = layers_done(message, self.control.layers)
        if not self._ends(done):
            return self._hand_on(message, now) if self._open and self.state is OPEN else self._take(message, now)
        metrics = {"ended_s": now, DONE + self._name: float(done)}
        return self._up(
            Result(assignment=message.assignment, step=message.step, metrics=metrics, tensors=message.tensors)
        )

    def _returned(self, result: Result, done: int, now: float) -> list[Action]:
        return self._up(msgspec.structs.replace(result, metrics={**result.metrics, DONE + self._name: float(done)}))

    def _missing(self, step: int, now: float) -> list[Action]:
        return self._up(TaskLost(step=step))

    def _up(self, message: Result | TaskLost) -> list[Action]:
        return [] if self._estimate is None else [Send("previous", message)]


ServiceServer.transitions = TRANSITIONS | {
    ("runner", LinkState): (ServiceServer._learn, ANY),
    ("previous", "joined"): (ServiceServer._join, ANY),
    ("previous", "lost"): (ServiceServer._leave, ANY),
    ("previous", Replaced): (ServiceServer._leave, ANY),
    ("previous", Shutdown): (ServiceServer._leave, ANY),
    ("previous", Activation): (ServiceServer._task, ANY),
}
