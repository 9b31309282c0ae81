"""Split-cost messages (HiveMind, section IV-C): building, reading and sizing them."""

import torch

from nodes.errors import ProtocolError
from nodes.splitting.controller import SplitControl
from nodes.wire.codec import wire_size
from nodes.wire.messages import SplitCost


def message_bytes(node: str, layers: int) -> int:
    """Bytes of the whole encoded split-cost message of ``node`` for a model of ``layers``."""
    cost_s = torch.empty(layers + 1, device="meta")
    return sum(wire_size(SplitCost(assignment=0, node=node, tensors={"cost_s": cost_s})))


def sci(number: int, name: str, cost_s: list[float]) -> SplitCost:
    """The SCI message of update ``number`` from node ``name``: 4 bytes a boundary, beside the header."""
    return SplitCost(assignment=number, node=name, tensors={"cost_s": torch.tensor(cost_s, dtype=torch.float32)})


def set_downstream(control: SplitControl, message: SplitCost) -> None:
    """Give ``control`` the costs [L+1] that ``message`` carries. Raises ProtocolError."""
    tensor = message.tensors.get("cost_s")
    if tensor is None or len(message.tensors) != 1 or tensor.dtype != torch.float32 or tensor.dim() != 1:
        raise ProtocolError(f"{message.node}: split costs are one float32 vector, cost_s")
    try:
        control.set_downstream(tensor.tolist())
    except ValueError as error:
        raise ProtocolError(f"{message.node}: {error}") from None
