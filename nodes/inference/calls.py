"""Computations that the roles of an inference service ask for."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from nodes.runtime.actions import Compute
from nodes.wire.messages import Activation


class TaskWorker(Protocol):
    """Worker of a node of a service: any layers of the model, on a task of one picture."""

    seconds: float  # of the last call, on the device that the node plays

    def start(self, step: int, stop: int) -> Activation: ...

    def forward(self, message: Activation, stop: int) -> Activation: ...


@dataclass(frozen=True)
class Start(Compute):
    """Begin task ``step`` and run its first ``stop`` layers."""

    step: int
    stop: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: TaskWorker) -> Activation:
        return worker.start(self.step, self.stop)


@dataclass(frozen=True)
class Forward(Compute):
    """Run a task from the layers done to ``stop`` layers done."""

    message: Activation
    stop: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: TaskWorker) -> Activation:
        return worker.forward(self.message, self.stop)
