"""Leaf modules, which a trace does not open: which they are, and what some of them make of a tensor without data."""

from typing import Any

import torch
from torch import nn

OPENED = (  # of torch's own; a block of an encoder stays whole, since evaluation rounds it otherwise, in one kernel
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict),
    *(nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer, nn.TransformerEncoder),
)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh)
NORMS = nn.modules.batchnorm._BatchNorm


def is_leaf(module: nn.Module) -> bool:
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.")) and not isinstance(module, OPENED)
    own = own or isinstance(module, NORMS)  # one's own kind too: it writes its buffers
    return own or getattr(module, "whole", False) is True or bool(reason_to_keep(module))


def reason_to_keep(module: nn.Module) -> str:
    """Why a module that has modules of its own must stay whole; empty if it need not."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled by torch.jit.script"
    return "it has a backward hook" if has_backward_hooks(module) and list(module.children()) else ""


def has_backward_hooks(module: nn.Module) -> bool:
    return bool(module._backward_hooks or module._backward_pre_hooks)


def keeps_form(module: nn.Module, args: Any) -> bool:
    """Whether what ``module`` makes is sure to have the shape, type and layout of its input."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    if hooks or not args or not type(module).__module__.startswith("torch.nn."):
        return False
    dense = args[0].is_contiguous() or args[0].is_contiguous(memory_format=torch.channels_last)
    if isinstance(module, NORMS):
        return bool(dense and args[0].dim() > 1 and args[0].shape[1] == module.num_features)
    return dense and isinstance(module, ACTIVATIONS) and args[0].is_floating_point()


def like(module: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """What a module that ``keeps_form`` makes of ``given``, without data; torch's own way takes milliseconds."""
    trained = given.requires_grad or any(parameter.requires_grad for parameter in module.parameters())
    made = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device=given.device)
    return made.requires_grad_(trained and torch.is_grad_enabled()).clone()
