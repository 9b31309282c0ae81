"""Types of results under autocast, which torch does not apply to tensors without data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from nodes.model.tracing.tree import map_tree


def casts(device: torch.device) -> bool:
    """Whether autocast is on for tensors of ``device``."""
    return bool(torch.is_autocast_enabled(device.type))


def cast_like(device: torch.device, call: Callable[..., Any], args: Any, kwargs: Any, made: Any) -> Any:
    """``made``, the result of ``call`` without data, in the types that autocast gives on ``device``."""
    if not any(value is made for value in args) and isinstance(made, (torch.Tensor, tuple)):
        tensors = iter(_types(device, call, args, kwargs))
        return map_tree(
            lambda leaf: leaf.to(next(tensors, leaf.dtype)) if isinstance(leaf, torch.Tensor) else leaf, made
        )
    return made


def _types(device: torch.device, call: Callable[..., Any], args: Any, kwargs: Any) -> list[torch.dtype]:
    """Types of the tensors that ``call`` returns, by a run on tensors that claim to be on ``device``."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        return FakeTensor(mode, value.detach(), device) if isinstance(value, torch.Tensor) else value

    module = getattr(call, "module", None)
    found: list[torch.dtype] = []
    with torch.no_grad():
        args, kwargs = map_tree(fake, (args, kwargs))
        if isinstance(module, nn.Module):
            named = {name: fake(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
            result = torch.func.functional_call(module, named, args, kwargs)
        else:
            result = call(*args, **kwargs)
        map_tree(lambda leaf: found.append(leaf.dtype) if isinstance(leaf, torch.Tensor) else None, result)
    return found
