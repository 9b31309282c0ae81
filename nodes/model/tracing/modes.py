"""Ambient modes of torch (gradients, inference, autocast): read where an operation is traced, entered where it runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from nodes.model.tracing.tree import map_tree

DEVICES = ("cpu", "cuda")  # whose autocast is kept


class Mode(NamedTuple):
    """The modes around one operation, where they differ from those around the whole model."""

    grad: bool | None = None
    inference: bool = False
    autocast: tuple[Any, ...] | None = None
    region: int = 0  # an autocast region, in which the casts of a weight are shared

    def same(self, other: "Mode") -> bool:
        """Whether both are the same but for the numbers of their regions."""
        return self[:3] == other[:3]


AMBIENT = Mode()


def autocast_state() -> tuple[Any, ...]:
    """Autocast of each device (enabled, dtype), and whether casts of weights are cached."""
    states = tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in DEVICES)
    return (*states, torch.is_autocast_cache_enabled())


class ModeReader:
    """Reads the modes of operations relative to those at its creation."""

    def __init__(self) -> None:
        self._grad, self._autocast = torch.is_grad_enabled(), autocast_state()
        self._region = 0

    def read(self) -> Mode:
        """The modes around the operation that is traced now."""
        inference = torch.is_inference_mode_enabled()
        grad = torch.is_grad_enabled()
        autocast = autocast_state()
        casts = autocast != self._autocast
        if not casts and grad == self._grad and not inference:
            return AMBIENT
        return Mode(
            None if grad == self._grad else grad, inference, autocast if casts else None, self._region if casts else 0
        )

    @contextmanager
    def watching_regions(self) -> Iterator[None]:
        """Count the autocast regions that end: torch clears its cache of casts at the end of each."""
        clear = torch.clear_autocast_cache

        def cleared() -> None:
            self._region += 1
            clear()

        torch.clear_autocast_cache = cleared
        try:
            yield
        finally:
            torch.clear_autocast_cache = clear


class ModeKeeper:
    """Enters the modes of operations that run one after another, sharing the casts of an autocast region."""

    def __init__(self) -> None:
        self._region = 0

    @contextmanager
    def around(self, mode: Mode) -> Iterator[None]:
        """The modes ``mode``."""
        with ExitStack() as stack:
            if mode.inference:
                stack.enter_context(torch.inference_mode())
            if mode.grad is not None:
                stack.enter_context(torch.set_grad_enabled(mode.grad))
            if mode.autocast is not None:
                stack.enter_context(self._autocast(mode))
            yield

    @contextmanager
    def _autocast(self, mode: Mode) -> Iterator[None]:
        if mode.region != self._region:
            torch.clear_autocast_cache()
            self._region = mode.region
        before = autocast_state()
        torch.autocast_increment_nesting()
        _set_autocast(mode.autocast or before)
        try:
            yield
        finally:
            _set_autocast(before)
            torch.autocast_decrement_nesting()

    def close(self) -> None:
        """Forget the casts of the last region."""
        torch.clear_autocast_cache()


def _set_autocast(state: tuple[Any, ...]) -> None:
    for device, (enabled, dtype) in zip(DEVICES, state[:-1], strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(state[-1])


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
