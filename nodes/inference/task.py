"""What messages of a task carry: layers done, and on the way back the layers done when it left each node."""

from nodes.errors import ProtocolError
from nodes.wire.messages import Activation, Result

DONE = "done."  # before a node's name in a result's metrics: layers done when the task left that node


def splits_of(result: Result) -> dict[str, int]:
    """Layers done when the task left each node that it reached, as ``result`` says."""
    return {key.removeprefix(DONE): int(value) for key, value in result.metrics.items() if key.startswith(DONE)}


def layers_done(message: Activation, layers: int) -> int:
    """The boundary that a task has reached, out of ``layers``. Raises ProtocolError."""
    if message.done is None or not 0 <= message.done <= layers:
        raise ProtocolError(f"task {message.step} came with {message.done} of {layers} layers done")
    return message.done
