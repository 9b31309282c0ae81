"""How do layers change their nodes while training goes on? Between two steps, each straight to its new holder.

HiveMind, section IV-E: when the assignment changes, parameters travel from a layer's old holder to its new one
over all hops between, once. The UE says so with an Assign before the first microbatch of a step, when nothing is
under way; what comes after it on a channel belongs to the new assignment. Every node knows both assignments, so
it knows what it must give, to which side, and what will come. A node whose layers are still on their way holds
the step's first activations back. (The paper does not say when or how a change takes effect.)
"""

from collections.abc import Mapping
from itertools import pairwise

from nodes.errors import ProtocolError
from nodes.model.layer_range import LayerRange, layer_range
from nodes.runtime.actions import Action, Compute, Direction, Send
from nodes.training.relay import Relay
from nodes.training.source import TrainingSchedule
from nodes.training.ue import Ue
from nodes.wire.messages import Activation, AnyMessage, Assign, Parameters

LayerSpan = tuple[int, int]  # layers from the first to before the second
Moves = Mapping[int, tuple[int, ...]]  # the splits from training step so and so on, counted over all epochs


def shares(splits: tuple[int, ...], layers: int) -> list[LayerSpan]:
    """The layers of each node."""
    return list(pairwise((0, *splits, layers)))


def travelling(before: list[LayerSpan], after: list[LayerSpan], giver: int) -> list[LayerSpan]:
    """What of the layers of ``giver`` goes to other nodes, in the model's order; one range for each of them."""
    start, stop = before[giver]
    common = [(max(start, low), min(stop, high)) for taker, (low, high) in enumerate(after) if taker != giver]
    return [(low, high) for low, high in common if low < high]


class LayerMove:
    """A change of the assignment as one node sees it: what it gives, and what it waits for."""

    def __init__(self, index: int, layers: int, splits: tuple[int, ...], assign: Assign) -> None:
        before, after = shares(splits, layers), shares(assign.splits, layers)
        self.assign = assign
        self.gives = travelling(before, after, index)
        self._awaited = set(travelling(after, before, index))  # from a taker's side it is the same
        self._arrived: list[Parameters] = []

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        return not self._awaited

    def begin(self) -> list[Action]:
        """Give away what others are to hold, and settle at once if nothing is to come."""
        gives = [Compute("give", (self.assign.assignment, *layers)) for layers in self.gives]
        return [*gives, *self._settle()]

    def take(self, message: Parameters) -> list[Action] | None:
        """Go on with layers that came; None if they are for a node further on."""
        if message.assignment != self.assign.assignment:
            raise ProtocolError(f"layers of assignment {message.assignment} came in {self.assign.assignment}")
        layers = (message.start, message.stop)
        if layers not in self._awaited:
            return None
        self._awaited.discard(layers)
        self._arrived.append(message)
        return self._settle()

    def _settle(self) -> list[Action]:
        return [Compute("settle", (self.assign, tuple(self._arrived)))] if self.complete else []


class MovingHop(Relay):
    """A node below the UE whose layers may change."""

    def __init__(self, held: LayerRange, end: bool, splits: tuple[int, ...], layers: int) -> None:
        super().__init__(held, end)
        self._splits, self._layers = splits, layers
        self._move: LayerMove | None = None  # under way
        self._number = 0  # of the assignment that the last move led or leads to
        self._held: list[Activation] = []

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        match sender, message:
            case "up", Assign():
                return [*([] if self._end else [Send("down", message)]), *self._begin(message)]
            case "up" | "down", Parameters():
                return self._layers_came(sender, message)
            case "up", Activation() if self._move:
                self._held.append(message)
                return []
        return super().receive(sender, message, now)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        match reply:
            case Parameters():
                return [Send("up" if reply.start < self._place.start else "down", reply)]
            case Assign():
                self._move = None
                held, self._held = self._held, []
                return [action for message in held for action in self.receive("up", message, now)]
        return super().computed(reply, now)

    def _begin(self, assign: Assign) -> list[Action]:
        if self._move or assign.assignment != self._number + 1:
            raise ProtocolError(f"assignment {assign.assignment} came, {self._number + 1} may be next")
        self._move = LayerMove(self._place.index, self._layers, self._splits, assign)
        self._number, self._splits = assign.assignment, assign.splits
        self._place = layer_range(assign.splits, self._place.index, self._layers)
        return self._move.begin()

    def _layers_came(self, sender: Direction, message: Parameters) -> list[Action]:
        taken = self._move.take(message) if self._move else None
        if taken is not None:
            return taken
        onward: Direction = "down" if sender == "up" else "up"
        if message.assignment != self._number or (onward == "down" and self._end):
            raise ProtocolError(f"layers {message.start} to {message.stop} came from {sender}, for no node beyond")
        return [Send(onward, message)]


class MovingUe(Ue):
    """A UE that moves layers before the training steps that ``moves`` names, and when the runner says so."""

    def __init__(
        self, course: TrainingSchedule, alone: bool, splits: tuple[int, ...], layers: int, moves: Moves
    ) -> None:
        super().__init__(course, alone)
        self._splits, self._layers, self._moves = splits, layers, moves
        self._wanted: tuple[int, ...] | None = None
        self._move: LayerMove | None = None
        self._number = 0

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        match sender, message:
            case "runner", Assign() if self.history:
                layer_range(message.splits, 0, self._layers)
                self._wanted = message.splits
                return []
            case "down", Parameters():
                taken = self._move.take(message) if self._move else None
                if taken is None:
                    raise ProtocolError(f"layers {message.start} to {message.stop} came to the UE for nothing")
                return taken
        return super().receive(sender, message, now)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        match reply:
            case Parameters():
                return [Send("down", reply)]
            case Assign():
                self._move = None
                return self._step_off()
        return super().computed(reply, now)

    def _train(self) -> list[Action]:
        """Start the next step, after a move if one is due."""
        splits = self._moves.get(self._now, self._wanted)
        self._wanted = None
        if splits is None or splits == self._splits:
            return self._step_off()
        self._number += 1
        assign = Assign(assignment=self._number, splits=splits, epoch=self._epoch)
        self._move = LayerMove(0, self._layers, self._splits, assign)
        self._splits = splits
        return [Send("down", assign), *self._move.begin()]

    @property
    def _now(self) -> int:
        """The training step that is next or under way, counted over all epochs."""
        return self._epoch * self._course.train_steps + self._step

    def _step_off(self) -> list[Action]:
        """Start the next step, all layers being where they belong."""
        return super()._train()
