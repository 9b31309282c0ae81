"""Role of a node below the UE: passes tasks on to the next node, gradients and results to the previous one.

A MEC server and the cloud are the same relay: any may hold layers or none, and the model may end at any.
"""

from typing import Any

from nodes.errors import unexpected
from nodes.model.layer_range import LayerRange
from nodes.runtime.actions import Action, Direction, Finish, Role, Send
from nodes.training.keeping.schedule import Keeping
from nodes.training.migration.roles import RelayMigration
from nodes.training.migration.segment import Settled
from nodes.training.segment import Backward, Forward
from nodes.wire.messages import Activation, AnyMessage, Begin, Gradient, Parameters, Result, Shutdown


class Relay(Role):
    """A node that holds ``layers``, with a previous node and, unless it is the chain's ``end``, a next one.

    In a U-shaped split a task ``turns`` at the last node with layers and returns to the UE, from where its gradient
    comes the same way. In any other split ``turns`` is None.
    """

    def __init__(
        self,
        layers: LayerRange,
        end: bool,
        migration: RelayMigration | None = None,
        turns: bool | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self._layers = layers
        self._end = end
        self._migration = migration
        self._turns, self._keeping = turns, keeping or Keeping()
        self._saved: int | None = None  # the epoch that the last step ended

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:  # noqa: PLR0911 (one a message)
        match sender, message:
            case "previous", Activation():
                return self._task(message)
            case "next", Activation() if self._turns is False:
                return [Send("previous", message)]
            case "previous", Gradient() if self._turns is not None:
                return [Backward(message)] if self._turns else [Send("next", message)]
            case "next", Gradient() | Result():
                if isinstance(message, Gradient) and not self._layers.relays:
                    return [Backward(message)]
                return [Send("previous", message)]
            case "previous", Shutdown():
                return [Finish()] if self._end else [Send("next", message), Finish()]
            case "runner", Begin():
                return []
            case _ if self._migration:
                actions = self._migration.receive(sender, message, now)
                self._layers = self._migration.layers
                return actions
        raise unexpected(message, sender)

    def _task(self, message: Activation) -> list[Action]:
        if self._migration and self._migration.holds(message):
            return []
        keep = self._kept_before(message) if message.train and message.microbatch == 0 else []
        return [*keep, Send("next", message) if self._layers.relays else Forward(message)]

    def _kept_before(self, message: Activation) -> list[Action]:
        epoch, self._saved = self._saved, message.save
        return self._keeping.before(message.step, epoch)

    def computed(self, reply: Any, now: float) -> list[Action]:
        match reply:
            case Activation():
                return [Send("previous" if self._turns else "next", reply)]
            case Gradient() | Result():
                return [Send("previous", reply)]
            case Parameters():
                return [Send("previous" if reply.start < self._layers.start else "next", reply)]
            case Settled() if self._migration:
                held = self._migration.settled()
                return [action for message in held for action in self.receive("previous", message, now)]
        raise unexpected(reply, "the worker")

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        if self._migration and direction == "previous":
            self._migration.observe(wire_bytes, wire_s, now)
        return []
