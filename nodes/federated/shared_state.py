"""What of a node's parts clients share: all of it, or all but batch norm, which then is local to each."""

from collections.abc import Sequence
from typing import Literal

from torch.nn.modules.batchnorm import _BatchNorm

from nodes.model.boundary import Tensors
from nodes.training.segment import Segment

BatchNorm = Literal["shared", "local"]


def shared_state(segments: Sequence[Segment], batch_norm: BatchNorm) -> Tensors:
    """Copies of the tensors that ``segments`` share, by their names in their ``state``."""
    return {name: tensor for one in segments for name, tensor in _divided(one, batch_norm)[0].items()}


def adopt_shared(segments: Sequence[Segment], tensors: Tensors, batch_norm: BatchNorm) -> None:
    """Go on from ``tensors`` that were shared. Raises ProtocolError if they do not fit."""
    rest = dict(tensors)
    for segment in segments:
        last = segment is segments[-1]
        own = rest if last else {name: rest.pop(name) for name in segment._held() if name in rest}
        segment.adopt(own | _divided(segment, batch_norm)[1] if batch_norm == "local" else own)


def full_name(part: str, key: str) -> str:
    """The name in ``Segment.state`` of what ``part`` of a segment holds as ``key``."""
    return key.removeprefix("body.") if part == "part" else f"{part}.{key}"


def _divided(segment: Segment, batch_norm: BatchNorm) -> tuple[Tensors, Tensors]:
    """The tensors of ``segment`` that are shared, and those that are local."""
    state = segment.state()
    norms = {
        full_name(part, f"{path}.{key}" if path else key)
        for part, held in segment._parts().items()
        for path, module in held.named_modules()
        if isinstance(module, _BatchNorm)
        for key in module.state_dict()
    }
    local = {name: state.pop(name) for name in norms} if batch_norm == "local" else {}
    return state, local
