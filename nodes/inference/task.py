"""What is known of a task of an inference service when it is done?"""

import msgspec
import torch

from nodes.errors import ProtocolError
from nodes.wire.messages import Activation, Result

DONE = "done."  # before a node's name in a result's metrics: layers done when the task left that node
LOST = "lost"  # in the metrics of a result that will not come


class TaskReport(msgspec.Struct, kw_only=True):
    """What came of one task. Times by the nodes' clock, which all must share for ``ended_s`` to mean anything."""

    step: int
    predicted_s: float  # the UE's least cost when it started
    began_s: float
    ended_s: float = 0.0  # when the last layer was done, wherever, and the result where it was to be
    returned_s: float = 0.0  # when the UE knew
    restarts: int = 0  # times that a node died with it
    splits: dict[str, int] = {}  # layers done when it left each node that it came to
    tensors: dict[str, torch.Tensor] = {}

    @property
    def latency_s(self) -> float:
        """From the start until the last layer was done."""
        return self.ended_s - self.began_s


TIMES = ("predicted_s", "began_s", "ended_s", "returned_s", "restarts")


def report(task: TaskReport) -> Result:
    """``task`` as the UE tells it to the runner."""
    metrics = {name: float(getattr(task, name)) for name in TIMES}
    metrics |= {DONE + name: float(done) for name, done in task.splits.items()}
    return Result(assignment=0, step=task.step, metrics=metrics, tensors=task.tensors)


def task_of(result: Result) -> TaskReport:
    """The task that ``report`` made ``result`` of."""
    predicted_s, began_s, ended_s, returned_s, restarts = (result.metrics[name] for name in TIMES)
    return TaskReport(
        step=result.step,
        predicted_s=predicted_s,
        began_s=began_s,
        ended_s=ended_s,
        returned_s=returned_s,
        restarts=int(restarts),
        splits=splits_of(result),
        tensors=result.tensors,
    )


def splits_of(result: Result) -> dict[str, int]:
    """Layers done when the task left each node that it came to, as ``result`` tells."""
    return {key.removeprefix(DONE): int(value) for key, value in result.metrics.items() if key.startswith(DONE)}


def layers_done(message: Activation, layers: int) -> int:
    """The boundary that a task has reached, out of ``layers``. Raises ProtocolError."""
    if message.done is None or not 0 <= message.done <= layers:
        raise ProtocolError(f"task {message.step} came with {message.done} of {layers} layers done")
    return message.done
