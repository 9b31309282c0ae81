"""Copies of a model: one without data for tracing, and modules of it with data."""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from nodes.errors import ModelError, one_line
from nodes.model.tracing.ledger import META
from nodes.model.tracing.tree import map_tree

OF_TORCH = vars(nn.Module()).keys()  # attributes that every module has


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


def own_numbers(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Numbers that modules hold as plain attributes, in containers too, and how much these hold; by path and name."""
    held = ((path, name, value) for path, module in model.named_modules() for name, value in vars(module).items())
    return {(path, name): _numbers(value) for path, name, value in held if name not in OF_TORCH}


def _numbers(value: Any, depth: int = 2) -> Any:
    if type(value) in (int, float):
        return value
    if type(value) is itertools.count:
        return repr(value)
    if isinstance(value, list | deque | dict | set) and depth:
        items = value.values() if isinstance(value, dict) else value
        return len(value), [_numbers(item, depth - 1) for item in items]
    return None


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


def run_with_data(call: Callable[..., Any], args: Any, kwargs: Any, device: torch.device) -> Any:
    """What ``call`` returns, without data, for arguments without data in whose place it is given drawn ones.

    What it changes in place counts as changed; a result in the memory of an argument shares that argument's.
    """
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # without data, with data

    def filled(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return device if value == META else value
        make = torch.randn_like if value.is_floating_point() else torch.zeros_like
        made = make(value, device=device).requires_grad_(value.requires_grad)
        with torch.enable_grad():
            pairs.append((value, made if value.is_leaf else made.clone()))  # a leaf cannot be changed in place
        return pairs[-1][1]

    def emptied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        for empty, made in pairs:
            if value is made:
                return empty
            if value.untyped_storage()._cdata == made.untyped_storage()._cdata:
                whole = empty if value.requires_grad else empty.detach()
                return whole.as_strided(value.shape, value.stride(), empty.storage_offset() + value.storage_offset())
        return value.detach().to(META).requires_grad_(value.requires_grad).clone()

    args, kwargs = map_tree(filled, (args, kwargs))
    versions = [made._version for _, made in pairs]
    result = call(*args, **kwargs)
    for (empty, made), version in zip(pairs, versions, strict=True):
        if made._version != version:
            empty.detach().zero_()  # so that the change is seen
    return map_tree(emptied, result)
