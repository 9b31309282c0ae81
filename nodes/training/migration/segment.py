"""Worker of a node whose layers change: parameters, buffers and optimizer state move as they are.

A layer's state is all that training needs of it: draws of stochastic layers follow from the step and the layer alone.
So a run whose layers move equals one whose layers stay, bit for bit.

A stage belongs to its link, to its boundary and to the two nodes that hold its halves. Where all of these stay it
stays, trained as it is; where one changes, both halves are made anew as at the job's start, without optimizer state: a
compressor trained for one boundary means nothing at another. (The paper has no stages.)
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from nodes.errors import ProtocolError
from nodes.model.boundary import Tensors
from nodes.model.chain import Chain, Values
from nodes.model.factory import build_model
from nodes.model.layer_range import layer_range
from nodes.model.state_transfer import load_training_state, optimizer_state, training_state
from nodes.runtime.actions import Compute
from nodes.spec.job import Job
from nodes.stages.base import Stage
from nodes.training.segment import Segment, TaskMessage
from nodes.training.source import Source
from nodes.wire.messages import Activation, Parameters, SplitChange
from nodes.wire.outgoing import sendable

StageKey = tuple[int, int, int, int]  # of a stage: its link, its boundary, its sender and its receiver


class Settled(NamedTuple):
    """The layers of a split change are where they belong."""


class MovingSegment(Segment):
    """A segment that keeps the whole model, of which only its own layers are up to date."""

    def __init__(self, job: Job, index: int) -> None:
        self._assignment = 0
        self._kept: dict[int, Stage] = {}  # by link
        super().__init__(job, index)
        self._splits = job.splits
        for splits in (job.moves or {}).values():  # what cannot be cut there is told now
            held = layer_range(splits, index, self.layers)
            if held.start < held.stop:
                self._whole.part(held.start, held.stop)

    def source(self, pictures: torch.Tensor, labels: torch.Tensor | None, **about: Any) -> TaskMessage:
        return super().source(pictures, labels, **about | {"assignment": self._assignment})

    def forward(self, message: Activation) -> TaskMessage:
        if message.assignment != self._assignment:
            raise ProtocolError(f"a task of assignment {message.assignment} came in {self._assignment}")
        return super().forward(message)

    def give(self, assignment: int, start: int, stop: int) -> Parameters:
        """The state of layers ``start`` to ``stop``, which are held here."""
        tensors = training_state(self._named(start, stop), self._optimizer)
        return Parameters(assignment=assignment, start=start, stop=stop, tensors=sendable(tensors))

    def settle(self, change: SplitChange, parameters: tuple[Parameters, ...]) -> Settled:
        """Hold what ``change`` says, with ``parameters`` of the layers that were not held here before.

        Raises ProtocolError if these are not what the layers have.
        """
        states: dict[torch.Tensor, Tensors] = {
            tensor: optimizer_state(self._optimizer, tensor) for tensor in self._parameters()
        }
        for message in parameters:
            states |= load_training_state(self._named(message.start, message.stop), message.tensors)
        before, after = (stages(splits, self.layers) for splits in (self._splits, change.splits))
        same = {key[0] for key in before.intersection(after)}
        held = [(self.place.inbound, self.inbound), (self.place.outbound, self.outbound)]
        self._kept = {link: stage for link, stage in held if link is not None and link in same}
        self._splits, self._assignment = change.splits, change.assignment
        self._hold(self._whole, layer_range(change.splits, self.place.index, self.layers))
        if self._optimizer is not None:
            for tensor in self._parameters():
                if state := states.get(tensor):
                    self._optimizer.state[tensor] = dict(state)
        self.begin_epoch(change.epoch)
        return Settled()

    def _chain(self, job: Job, index: int, meta: bool) -> Chain:
        model = build_model(job.model, job.classes, job.input_shape, job.seed)
        self._whole = Chain(model, job.input_shape, dtype=job.input_type)
        self._whole.model.to(job.device)
        return self._whole

    def _stage(self, link: int | None, shapes: Values) -> Stage:
        return super()._stage(link, shapes) if link is None or link not in self._kept else self._kept[link]

    def _named(self, start: int, stop: int) -> Tensors:
        """Parameters and buffers of layers ``start`` to ``stop``, by their names in the model."""
        part = self._whole.part(start, stop)
        named = [*part.body.named_parameters(), *part.body.named_buffers()]
        return dict(named)


class MovingSource(Source):
    """The UE's worker, where layers move."""

    def __init__(self, segment: MovingSegment, data: Any) -> None:
        super().__init__(segment, data)
        self.give, self.settle = segment.give, segment.settle


@dataclass(frozen=True)
class Give(Compute):
    """Take the state of layers ``start`` to ``stop`` out of the node's part."""

    assignment: int
    start: int
    stop: int

    def run(self, worker: MovingSegment | MovingSource) -> Parameters:
        return worker.give(self.assignment, self.start, self.stop)


@dataclass(frozen=True)
class Settle(Compute):
    """Hold the layers that ``change`` says, with the ``parameters`` of those that came."""

    change: SplitChange
    parameters: tuple[Parameters, ...]

    def run(self, worker: MovingSegment | MovingSource) -> Settled:
        return worker.settle(self.change, self.parameters)


def stages(splits: tuple[int, ...], layers: int) -> set[StageKey]:
    """The stages of an assignment."""
    places = [layer_range(splits, index, layers) for index in range(len(splits) + 1)]
    senders = {sender.outbound: sender for sender in places if sender.outbound is not None}
    return {
        (link, senders[link].stop, senders[link].index, receiver.index)
        for receiver in places
        if (link := receiver.inbound) in senders
    }
