"""Copies of a model: one without data for tracing, and modules of it with data."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from nodes.errors import ModelError, one_line


class ModelCopy:
    """A copy of ``model`` whose parameters and buffers have no data; the model stays as it is.

    ``named`` holds (name, tensor without data) by the identity of the tensors in the copy and in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        memo: dict[int, Any] = {}
        self.named: dict[int, tuple[str, torch.Tensor]] = {}
        self._kept: list[Any] = [model]
        for name, tensor in registered(model):
            empty = tensor.detach().to("meta")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, tensor.requires_grad)
            memo[id(tensor)] = empty
            self.named[id(tensor)] = self.named[id(empty)] = (name, empty)
        self.attributes: dict[int, str] = {}  # tensors that are no buffers, by identity
        for name, tensor in attributes(model):
            if id(tensor) not in memo:
                memo[id(tensor)] = made = tensor.detach().clone()
                if tensor.is_meta:
                    self.named[id(made)] = (name, made)
                self.attributes[id(made)] = name
        self._kept += memo.values()
        try:
            self.model: nn.Module = copy.deepcopy(model, memo)
        except Exception as error:
            raise ModelError(f"the model cannot be copied, as tracing must: {one_line(error)}") from error
        self.paths: dict[int, str] = {}
        for owner in (self.model, model):
            self.paths.update((id(module), path) for path, module in owner.named_modules())


def registered(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers with their names, each once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def attributes(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that modules hold as plain attributes, with their names."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{name}" if path else name, value


def own_numbers(model: nn.Module) -> dict[tuple[str, str], float]:
    """Numbers that modules hold as plain attributes, by path and name."""
    held = ((path, name, value) for path, module in model.named_modules() for name, value in vars(module).items())
    return {(path, name): value for path, name, value in held if type(value) in (int, float)}


def parameters_replaced(module: nn.Module) -> bool:
    """Whether other tensors are in the places of parameters now, as in ``torch.func.functional_call``."""
    places = (tensor for one in module.modules() for tensor in one._parameters.values())
    return any(not isinstance(tensor, nn.Parameter | None) for tensor in places)


def with_data(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy of ``module`` to run; parameters that have no data are drawn."""
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for _, tensor in attributes(module)}
    made = copy.deepcopy(module, memo)
    if any(tensor.is_meta for _, tensor in registered(made)):
        made.to_empty(device=device)
        with torch.no_grad():
            for _, tensor in registered(made):
                if tensor.is_floating_point():
                    tensor.normal_(std=0.02)
                else:
                    tensor.zero_()
    return made
