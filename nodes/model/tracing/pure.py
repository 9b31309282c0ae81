"""Operations that change a tensor in place, and those that make a new one of it."""

import inspect
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from nodes.model.tracing.values import IN_PLACE

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]  # operation, target, args, kwargs
SHAPED_IN_PLACE = {"unsqueeze_", "squeeze_", "t_", "transpose_", "swapaxes_", "swapdims_"}


def set_item(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """A copy of ``tensor`` with ``value`` at ``index``."""
    made = tensor.clone()
    made[index] = value
    return made


def asks_in_place(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function is told by an argument or by its name to change its first argument."""
    if kwargs.get("inplace"):
        return True
    place = _place_of_flag(target)
    if place is not None and len(args) > place:
        return bool(args[place])
    return _named_in_place(target if isinstance(target, str) else getattr(target, "__name__", ""))


def pure_call(op: str, target: Any, args: Any, kwargs: Any) -> Call | None:  # noqa: PLR0911
    """The call that returns a new tensor in place of one that changes its first argument; None if there is none."""
    if target is operator.setitem or getattr(target, "__name__", target) == "__setitem__":
        return "call_function", set_item, args, kwargs
    if kwargs.get("inplace"):
        return op, target, args, {**kwargs, "inplace": False}
    place = _place_of_flag(target)
    if place is not None and len(args) > place:
        return op, target, (*args[:place], False, *args[place + 1 :]), kwargs
    if target in IN_PLACE:
        return op, IN_PLACE[target], args, kwargs
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if not _named_in_place(name):
        return None
    if op == "call_method":
        return (op, name[:-1], args, kwargs) if callable(getattr(torch.Tensor, name[:-1], None)) else None
    return (op, getattr(torch, name[:-1]), args, kwargs) if hasattr(torch, name[:-1]) else None


def same_layout(one: Any, other: torch.Tensor) -> bool:
    """Whether a result ``one`` can stand for ``other``."""
    return (
        isinstance(one, torch.Tensor)
        and one.shape == other.shape
        and one.dtype == other.dtype
        and all(a == b for a, b, size in zip(one.stride(), other.stride(), one.shape, strict=True) if size > 1)
    )


def _named_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in ("and_", "or_")


@cache
def _place_of_flag(target: Callable[..., Any] | str) -> int | None:
    """The position of the argument ``inplace`` of a function."""
    if isinstance(target, str):
        return None
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # built in
        return None
    return names.index("inplace") if "inplace" in names else None
