"""Training state that moves with layers to another node: parameters, buffers, and the optimizer's state of each.

Nothing else is needed: the draws of stochastic layers follow from the step and the layer alone.
"""

from collections.abc import Mapping

import torch

from nodes.errors import ProtocolError
from nodes.model.boundary import Tensors

OPTIMIZER = "optimizer."  # prefix of KIND.PARAMETER
KINDS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")


def optimizer_state(optimizer: torch.optim.Optimizer | None, tensor: torch.Tensor) -> Tensors:
    """The state of one parameter in ``optimizer``; empty before the first step and for a buffer."""
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    return {kind: value for kind, value in state.items() if isinstance(value, torch.Tensor)}


def training_state(named: Tensors, optimizer: torch.optim.Optimizer | None) -> Tensors:
    """The parameters and buffers ``named`` with their state in ``optimizer``, by name; no copies."""
    tensors = {**named}
    for name, tensor in named.items():
        for kind, value in optimizer_state(optimizer, tensor).items():
            tensors[f"{OPTIMIZER}{kind}.{name}"] = value
    return tensors


def load_training_state(named: Tensors, came: Mapping[str, torch.Tensor]) -> dict[torch.Tensor, Tensors]:
    """Copy a ``training_state`` from elsewhere into ``named``; return each optimizer state. Raises ProtocolError."""
    left, states = dict(came), dict[torch.Tensor, Tensors]()
    with torch.no_grad():
        for name, tensor in named.items():
            states[tensor] = {}
            for kind in KINDS:
                value = left.pop(f"{OPTIMIZER}{kind}.{name}", None)
                if value is not None:
                    like = torch.zeros(()) if kind == "step" else tensor
                    states[tensor][kind] = checked(f"{kind} of {name}", value, like)
            tensor.copy_(checked(name, left.pop(name, None), tensor))
    if left:
        raise ProtocolError(
            f"unexpected tensors {sorted(left)} in the state of layers; the layers here have none of these names"
        )
    return states


def checked(name: str, came: torch.Tensor | None, held: torch.Tensor) -> torch.Tensor:
    """``came``, on the device of ``held``. Raises ProtocolError unless it has its shape and dtype."""
    if came is None or came.shape != held.shape or came.dtype != held.dtype:
        got = "nothing" if came is None else f"{came.dtype} {list(came.shape)}"
        raise ProtocolError(f"{name}: got {got}, expected {held.dtype} {list(held.shape)}")
    return came.to(held.device)
