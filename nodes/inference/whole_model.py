"""Workers of a service's nodes: any layers of the whole model, on a task of one picture.

Every node holds all weights, so it can go on from any boundary. In virtual time nothing is computed: the frame of a
task at each boundary, made once from shapes, stands for it. Either way ``seconds`` is what the last call takes on the
device that the node plays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import torch

from nodes.costs.workload import Inspected
from nodes.errors import ProtocolError
from nodes.inference.frames import Frames, _frame
from nodes.model.boundary import Tensors, pack, unpack
from nodes.model.chain import Values
from nodes.model.factory import build_model
from nodes.runtime.actions import Compute
from nodes.runtime.executors import CostModel
from nodes.spec.job import Granularity, InputType, ModelSpec
from nodes.wire.messages import Activation


class Shapes:
    """Tasks that take time and bytes and hold no data."""

    def __init__(self, frames: Frames, layer_s: Sequence[float]) -> None:
        self.seconds = 0.0
        self._frames = frames
        self._layer_s = layer_s

    def start(self, step: int, stop: int) -> Activation:
        return self._at(step, 0, stop)

    def forward(self, message: Activation, stop: int) -> Activation:
        return self._at(message.step, message.done or 0, stop)

    def _at(self, step: int, done: int, stop: int) -> Activation:
        self.seconds = sum(self._layer_s[done:stop])
        return msgspec.structs.replace(self._frames[stop], step=step)


class WholeModel:
    """All layers of a model, in evaluation mode; ``pictures`` (N, ...) are the UE's tasks, over and over."""

    def __init__(
        self,
        model: str | ModelSpec,
        classes: int,
        input_shape: tuple[int, ...],
        *,
        granularity: Granularity = "op",
        dtype: InputType = "float32",
        seed: int = 0,
        device: str = "cpu",
        layer_s: Sequence[float] | None = None,
        pictures: torch.Tensor | None = None,
    ) -> None:
        built = build_model(model, classes, input_shape, seed).to(device).eval()
        chain = Inspected(built, input_shape, granularity, dtype)
        self.frames = tuple(_frame(chain.shapes(done), done) for done in range(len(chain) + 1))
        self.seconds = 0.0
        self._layer_s = layer_s
        self._bodies = [chain.part(layer, layer + 1).eval() for layer in range(len(chain))]
        self._input, self._device, self._pictures = chain.input, torch.device(device), pictures

    def start(self, step: int, stop: int) -> Activation:
        if self._pictures is None:
            raise ProtocolError("tasks start where the pictures are")
        index = step % len(self._pictures)
        picture = self._pictures[index : index + 1].to(self._device)
        return self._run({self._input: picture}, step, 0, stop)

    def forward(self, message: Activation, stop: int) -> Activation:
        values = unpack(self._checked(message), message.views, message.scalars)
        return self._run(values, message.step, message.done or 0, stop)

    def _run(self, values: Values, step: int, done: int, stop: int) -> Activation:
        self.seconds = sum(self._layer_s[done:stop]) if self._layer_s else 0.0
        with torch.no_grad():
            for part in self._bodies[done:stop]:
                values = part(values)
            tensors, views, scalars = pack(values)
        wire = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return Activation(assignment=0, step=step, train=False, scalars=scalars, views=views, tensors=wire, done=stop)

    def _checked(self, message: Activation) -> Tensors:
        """The tensors of ``message``, on the device. Raises ProtocolError unless they are what crosses there."""
        frame = self.frames[message.done or 0]
        came, expected = _outline(message), _outline(frame)
        if came != expected:
            raise ProtocolError(f"task {message.step} came to boundary {message.done} with {came}, not {expected}")
        return {name: tensor.to(self._device) for name, tensor in message.tensors.items()}


@dataclass(frozen=True)
class Start(Compute):
    """Begin task ``step`` and run its first ``stop`` layers."""

    step: int
    stop: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: Shapes | WholeModel) -> Activation:
        return worker.start(self.step, self.stop)


@dataclass(frozen=True)
class Forward(Compute):
    """Run a task from the layers done to ``stop`` layers done."""

    message: Activation
    stop: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: Shapes | WholeModel) -> Activation:
        return worker.forward(self.message, self.stop)


def playing(worker: Shapes | WholeModel) -> CostModel:
    """The times of calls on the device that ``worker`` plays."""
    return lambda call, reply, cpu_s: worker.seconds


def _outline(message: Activation) -> tuple[object, ...]:
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in message.tensors.items()}
    views = {name: view for name, view in message.views.items() if view.base != name}  # ``unpack`` checks the others
    return shapes, views, message.scalars
