"""What of a part goes with it to another node? Parameters and buffers, and what the optimizer keeps of each parameter.

That is all that training needs: what stochastic layers draw follows from the step and the layer alone.
"""

from collections.abc import Mapping

import torch

from nodes.errors import ProtocolError
from nodes.model.boundary import Tensors

OPTIMIZER = "optimizer."  # before the kind of an optimizer's tensor, and the parameter's name
KINDS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")


def optimizer_state(optimizer: torch.optim.Optimizer | None, tensor: torch.Tensor) -> Tensors:
    """What ``optimizer`` knows of a parameter; nothing before the first step, or of a buffer."""
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    return {kind: value for kind, value in state.items() if isinstance(value, torch.Tensor)}


def training_state(named: Tensors, optimizer: torch.optim.Optimizer | None) -> Tensors:
    """The parameters and buffers ``named``, and what ``optimizer`` keeps of them, by name; the tensors themselves."""
    tensors = {**named}
    for name, tensor in named.items():
        for kind, value in optimizer_state(optimizer, tensor).items():
            tensors[f"{OPTIMIZER}{kind}.{name}"] = value
    return tensors


def load_training_state(named: Tensors, came: Mapping[str, torch.Tensor]) -> dict[torch.Tensor, Tensors]:
    """Copy what ``training_state`` returned elsewhere into ``named``; the optimizer's state of each of these.

    Raises ProtocolError if it is not what they have.
    """
    left, states = dict(came), dict[torch.Tensor, Tensors]()
    with torch.no_grad():
        for name, tensor in named.items():
            states[tensor] = {}
            for kind in KINDS:
                value = left.pop(f"{OPTIMIZER}{kind}.{name}", None)
                if value is not None:
                    like = torch.zeros(()) if kind == "step" else tensor
                    states[tensor][kind] = _checked(f"{kind} of {name}", value, like)
            tensor.copy_(_checked(name, left.pop(name, None), tensor))
    if left:
        raise ProtocolError(f"the layers held here have no {sorted(left)}")
    return states


def _checked(name: str, came: torch.Tensor | None, held: torch.Tensor) -> torch.Tensor:
    """``came`` where ``held`` is. Raises ProtocolError unless it is the like of ``held``."""
    if came is None or came.shape != held.shape or came.dtype != held.dtype:
        what = "did not come" if came is None else f"came as {came.dtype} {list(came.shape)}"
        raise ProtocolError(f"{name} {what}; {held.dtype} {list(held.shape)} is held")
    return came.to(held.device)
