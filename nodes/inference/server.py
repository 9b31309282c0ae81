"""What does a node below the UE decide in an inference service? How far to take a task, and what to tell upstream."""

from collections.abc import Callable

import msgspec

from nodes.errors import ProtocolError
from nodes.inference.service_node import ServiceNode
from nodes.inference.task import DONE, LOST, layers_done
from nodes.runtime.actions import Action, Compute, Direction, Send
from nodes.splitting.controller import SplitControl
from nodes.splitting.forecast import LookAhead
from nodes.splitting.link_estimates import CostEstimate, LinkEstimates
from nodes.wire.messages import Activation, AnyMessage, LinkState, Result, Shutdown
from nodes.wire.split_costs import sci


class ServiceHop(ServiceNode):
    """A node below the UE. ``estimates`` has the incoming link's costs by the name of the neighbour upstream.

    Where they are ``LinkEstimates``, they learn what the runner tells of links and what transfers take.
    """

    def __init__(
        self,
        name: str,
        control: SplitControl,
        estimates: Callable[[str], CostEstimate] | LinkEstimates,
        deliver: bool = False,
    ) -> None:
        super().__init__(name, control, deliver)
        self._estimates = estimates
        self._estimate: CostEstimate | None = None  # of the link from the neighbour upstream, if there is one
        self._upper = ""  # that neighbour
        self._held: list[Activation] = []
        self._updated_s = 0.0
        self._look_ahead = LookAhead(control.policy.gap_tasks)

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        if sender == "up" and isinstance(message, Activation):
            self._look_ahead.observe(self._updated_s, now)
            return self._take(message, now)
        if sender == "up" and isinstance(message, Shutdown):
            return self.lost("up", now)
        if sender == "runner" and isinstance(message, LinkState) and isinstance(self._estimates, LinkEstimates):
            self._estimates.set_link(message.upper, message.link)
            return self._update(now) if message.upper == self._upper else []
        return super().receive(sender, message, now)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Hand on what was computed, or return the result."""
        if not isinstance(reply, Activation):
            raise ProtocolError(f"unexpected {type(reply).__name__} from a computation")
        return self._pass(reply, now)

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        if direction == "down":
            return super().joined(direction, peer, now)
        self._estimate, self._upper = self._estimates(peer), peer
        self.control.forget_sent()
        return [*self._update(now), *self._reroute(now)]

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        if direction == "up" and isinstance(self._estimates, LinkEstimates):
            self._estimates.observe(self._upper, wire_bytes, wire_s, now)
        return []

    def lost(self, direction: Direction, now: float) -> list[Action]:
        if direction == "down":
            return super().lost(direction, now)
        self._estimate = None
        return []

    @property
    def _under_way(self) -> bool:
        return super()._under_way or (self._estimate is None and bool(self._wanted))

    def _update(self, now: float) -> list[Action]:
        """Update the split and send the SCI upstream, if somebody is there and it is worth a message."""
        if self._estimate is None or self._down in ("joining", "silent"):
            return []
        self.control.update(self._estimate(now, self._look_ahead.gap_s))
        self._updated_s = now
        cost_s = self.control.next_update(now)
        return [] if cost_s is None else [Send("up", sci(self._update_number, self._name, cost_s))]

    def _take(self, message: Activation, now: float) -> list[Action]:
        done = layers_done(message, self.control.layers)
        if not self._ready:
            return self._hold(message)
        stop = self.control.take_stop(done)
        return [Compute("forward", (message, stop))] if stop > done else self._pass(message, now)

    def _hold(self, message: Activation) -> list[Action]:
        self._held.append(message)
        return []

    def _pass(self, message: Activation, now: float) -> list[Action]:
        done = layers_done(message, self.control.layers)
        if not self._ends(done):
            to_go_on = self._ready and self._down != "none"
            return self._hand_on(message, now) if to_go_on else self._take(message, now)
        metrics = {"ended_s": now, DONE + self._name: float(done)}
        return self._up(
            Result(assignment=message.assignment, step=message.step, metrics=metrics, tensors=message.tensors)
        )

    def _returned(self, result: Result, now: float) -> list[Action]:
        done = self._passed.pop(result.step, None)
        if done is None:
            return []
        return self._up(msgspec.structs.replace(result, metrics={**result.metrics, DONE + self._name: float(done)}))

    def _missing(self, step: int, now: float) -> list[Action]:
        return self._up(Result(assignment=0, step=step, metrics={LOST: 1.0}))

    def _up(self, result: Result) -> list[Action]:
        return [] if self._estimate is None else [Send("up", result)]

    def _go_on(self, now: float) -> list[Action]:
        held, self._held = self._held, []
        return [action for message in held for action in self._take(message, now)]
