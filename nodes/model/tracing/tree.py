"""Nested arguments of operations: tuples, lists, dictionaries and slices."""

from collections.abc import Callable
from typing import Any


class _Marker:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __deepcopy__(self, memo: Any) -> "_Marker":
        return self


HERE = _Marker("HERE")  # the device on which an operation runs


def map_tree(function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to its leaves; tuples of other types become plain."""
    if isinstance(value, tuple):
        items = [map_tree(function, item) for item in tuple.__iter__(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_tree(function, item) for item in value]
    if isinstance(value, dict):
        pairs = ((key, map_tree(function, item)) for key, item in value.items())
        return type(value)(pairs)  # which may have its items as attributes too
    if isinstance(value, slice):
        return slice(*(map_tree(function, item) for item in (value.start, value.stop, value.step)))
    return function(value)


def any_leaf(holds: Callable[[Any], bool], value: Any) -> bool:
    """Whether ``holds`` is true of a leaf of ``value``; leaves after it are not asked."""
    if isinstance(value, tuple):
        return any(any_leaf(holds, item) for item in tuple.__iter__(value))
    if isinstance(value, list):
        return any(any_leaf(holds, item) for item in value)
    if isinstance(value, dict):
        return any(any_leaf(holds, item) for item in value.values())
    if isinstance(value, slice):
        return any(any_leaf(holds, item) for item in (value.start, value.stop, value.step))
    return holds(value)


def leaves(kind: type, value: Any) -> list[Any]:
    """The leaves of ``value`` that are of ``kind``."""
    found: list[Any] = []

    def look(leaf: Any) -> bool:
        if isinstance(leaf, kind):
            found.append(leaf)
        return False

    any_leaf(look, value)
    return found
