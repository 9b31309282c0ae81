"""Migration of layers between nodes during training: between two steps, straight to the new holder.

HiveMind, section IV-E: when the splits change, parameters travel from a layer's old holder to its new one over all
links between, once. The UE announces it with a ``SplitChange`` before the first microbatch of a step, when nothing is
under way; what follows on a channel belongs to the new splits. Every node knows both, so it knows what it must give,
to which side, and what will come. A node whose layers are still on their way holds the step's first activations back.
(The paper does not say when or how a change takes effect.)

Who decides: a schedule (``moves``), the runner (``SplitRequest``), or the nodes (``control``). In the last case the UE
sends a ``Proposal`` beside a training step; each node adds its split on the way to the last, and an update of split
costs returns, for the next proposal. What was proposed the UE does before its next step. So no step waits for a
decision.
"""

from collections.abc import Mapping
from itertools import pairwise

from nodes.errors import ProtocolError, unexpected
from nodes.model.layer_range import LayerRange, layer_range
from nodes.runtime.actions import Action, Direction, Send
from nodes.training.migration.segment import Give, Settle
from nodes.training.migration.split_control import TrainingControl
from nodes.wire.messages import Activation, AnyMessage, Parameters, Proposal, SplitChange, SplitCost, SplitRequest
from nodes.wire.split_costs import sci

LayerSpan = tuple[int, int]  # layers from the first to before the second
Moves = Mapping[int, tuple[int, ...]]  # the splits from a training step on, counted over all epochs


def shares(splits: tuple[int, ...], layers: int) -> list[LayerSpan]:
    """The layers of each node."""
    return list(pairwise((0, *splits, layers)))


def travelling(before: list[LayerSpan], after: list[LayerSpan], giver: int) -> list[LayerSpan]:
    """The layers of ``giver`` that go to other nodes, in the model's order; one span for each of them."""
    start, stop = before[giver]
    common = [(max(start, low), min(stop, high)) for taker, (low, high) in enumerate(after) if taker != giver]
    return [(low, high) for low, high in common if low < high]


class LayerMove:
    """A change of splits as one node sees it: the layers it gives, and those it waits for."""

    def __init__(self, index: int, layers: int, splits: tuple[int, ...], change: SplitChange) -> None:
        before, after = shares(splits, layers), shares(change.splits, layers)
        self.change = change
        self.gives = travelling(before, after, index)
        self._awaited = set(travelling(after, before, index))  # from a taker's side it is the same
        self._arrived: list[Parameters] = []

    def begin(self) -> list[Action]:
        """Give away what others are to hold, and settle at once if nothing is to come."""
        gives = [Give(self.change.assignment, *span) for span in self.gives]
        return [*gives, *self._settle()]

    def take(self, message: Parameters) -> list[Action] | None:
        """Go on with layers that came; None if they are for a node further on."""
        if message.assignment != self.change.assignment:
            raise ProtocolError(f"layers of assignment {message.assignment} came in {self.change.assignment}")
        span = (message.start, message.stop)
        if span not in self._awaited:
            return None
        self._awaited.discard(span)
        self._arrived.append(message)
        return self._settle()

    def _settle(self) -> list[Action]:
        return [] if self._awaited else [Settle(self.change, tuple(self._arrived))]


class RelayMigration:
    """Layers of a node below the UE that may change; ``layers`` are those it holds now."""

    def __init__(
        self, held: LayerRange, end: bool, splits: tuple[int, ...], total: int, control: TrainingControl | None = None
    ) -> None:
        self.layers = held
        self._end, self._splits, self._total, self._control = end, splits, total, control
        self._move: LayerMove | None = None  # under way
        self._number = 0  # of the last change of splits
        self._held: list[Activation] = []

    def holds(self, message: Activation) -> bool:
        """Hold ``message`` back if layers are on their way."""
        if self._move:
            self._held.append(message)
        return self._move is not None

    def settled(self) -> list[Activation]:
        """The activations held back, once all layers are where they belong."""
        self._move = None
        held, self._held = self._held, []
        return held

    def observe(self, wire_bytes: float, wire_s: float, now: float) -> None:
        """Take note of a transfer over the incoming link."""
        if self._control:
            self._control.observe(wire_bytes, wire_s, now)

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a message about layers. Raises ProtocolError."""
        match sender, message:
            case "previous", SplitChange():
                return [*([] if self._end else [Send("next", message)]), *self._begin(message)]
            case "previous" | "next", Parameters():
                return self._layers_came(sender, message)
            case "previous", Proposal() if self._control:
                return self._propose(message, self._control, now)
            case "next", Proposal() if self._control:
                return self._answer(message, self._control, now)
            case "next", SplitCost() if self._control:
                self._control.hear(message)
                return []
        raise unexpected(message, sender)

    def _begin(self, change: SplitChange) -> list[Action]:
        if self._move or change.assignment != self._number + 1:
            raise ProtocolError(f"assignment {change.assignment} came, {self._number + 1} may be next")
        if len(change.splits) != len(self._splits):
            raise ProtocolError(f"splits {list(change.splits)} came, {len(self._splits)} are needed")
        layer_range(change.splits, self.layers.index, self._total)  # before anything changes
        if self._control:
            self._control.moved()
        self._move = LayerMove(self.layers.index, self._total, self._splits, change)
        self._number, self._splits = change.assignment, change.splits
        self.layers = layer_range(change.splits, self.layers.index, self._total)
        return self._move.begin()

    def _layers_came(self, sender: Direction, message: Parameters) -> list[Action]:
        taken = self._move.take(message) if self._move else None
        if taken is not None:
            return taken
        onward: Direction = "next" if sender == "previous" else "previous"
        if message.assignment != self._number or (onward == "next" and self._end):
            raise ProtocolError(f"layers {message.start} to {message.stop} came from {sender}, for no node beyond")
        return [Send(onward, message)]

    def _propose(self, asked: Proposal, control: TrainingControl, now: float) -> list[Action]:
        index = self.layers.index
        if len(asked.splits) != index:
            raise ProtocolError(f"{len(asked.splits)} splits were proposed before node {index}")
        control.reach(asked.step)
        if self._end:
            return self._answer(asked, control, now)
        stop = control.stop(asked.splits[-1], self._splits[index])
        return [Send("next", Proposal(step=asked.step, splits=(*asked.splits, stop)))]

    def _answer(self, complete: Proposal, control: TrainingControl, now: float) -> list[Action]:
        cost_s = control.update(self._splits, now)
        costs = [] if cost_s is None else [Send("previous", sci(complete.step, str(self.layers.index), cost_s))]
        return [*costs, Send("previous", complete)]


class UeMigration:
    """Changes of splits that the UE announces: by ``moves``, as the runner asks, or by ``control``."""

    def __init__(
        self, splits: tuple[int, ...], total: int, moves: Moves, control: TrainingControl | None = None
    ) -> None:
        self._splits, self._total, self._moves, self._control = splits, total, moves, control
        self._wanted: tuple[int, ...] | None = None
        self._move: LayerMove | None = None
        self._number = 0
        self._next_asked = 0  # from this step on the nodes may be asked
        self._asking = False

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a message about layers. Raises ProtocolError, and ModelError for splits that do not fit."""
        match sender, message:
            case "runner", SplitRequest(splits=splits):
                layer_range(splits, 0, self._total)
                self._wanted = splits
                return []
            case "next", Parameters():
                taken = self._move.take(message) if self._move else None
                if taken is None:
                    raise ProtocolError(f"layers {message.start} to {message.stop} came to the UE for nothing")
                return taken
            case "next", SplitCost() if self._control:
                self._control.hear(message)
                return []
            case "next", Proposal() if self._control and self._asking:
                return self._answered(message, self._control, now)
        raise unexpected(message, sender)

    def change(self, step: int, epoch: int) -> list[Action]:
        """Move layers before training step ``step``, if that is due."""
        splits = self._moves.get(step, self._wanted)
        self._wanted = None
        if splits is None or splits == self._splits:
            return []
        self._number += 1
        change = SplitChange(assignment=self._number, splits=splits, epoch=epoch)
        self._move = LayerMove(0, self._total, self._splits, change)
        self._splits = splits
        return [Send("next", change), *self._move.begin()]

    def propose(self, step: int) -> list[Action]:
        """Ask the nodes for their splits beside training step ``step``, if that is due; layers are settled."""
        self._move = None
        if not self._control or self._asking or step < self._next_asked:
            return []
        self._asking, self._next_asked = True, step + self._control.every_steps
        return [Send("next", Proposal(step=step, splits=(self._control.stop(0, self._splits[0]),)))]

    def _answered(self, complete: Proposal, control: TrainingControl, now: float) -> list[Action]:
        layer_range(complete.splits, 0, self._total)
        if len(complete.splits) != len(self._splits):
            raise ProtocolError(f"{len(complete.splits)} splits were proposed, {len(self._splits)} are needed")
        self._asking, self._wanted = False, complete.splits
        if complete.splits != self._splits:
            control.moved()
        else:
            control.update(self._splits, now)
        return []
