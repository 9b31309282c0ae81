"""Packing of a boundary's values for the wire: each storage once, views by their geometry, and scalars."""

from typing import Any

import msgspec
import torch

from nodes.model.chain import Values

Tensors = dict[str, torch.Tensor]
Scalar = bool | int | float


class View(msgspec.Struct, frozen=True, array_like=True):
    """A value that shares the storage of ``base``; ``stride`` and ``offset`` are in elements of it."""

    base: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def pack(values: Values) -> tuple[Tensors, dict[str, View], dict[str, Scalar]]:
    """Split ``values`` into (tensors with a storage each, views of those, scalars)."""
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    scalars = {name: value for name, value in values.items() if name not in tensors}
    views: dict[str, View] = {}
    by_storage: dict[int, list[str]] = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].numel(), not tensors[name].is_contiguous())):
        kept = by_storage.setdefault(tensors[name].untyped_storage()._cdata, [])
        view = next((view for base in kept if (view := _view(base, tensors[base], tensors[name]))), None)
        if view:
            views[name] = view
        else:
            kept.append(name)
    return {name: tensor for name, tensor in tensors.items() if name not in views}, views, scalars


def unpack(tensors: Tensors, views: dict[str, View], scalars: dict[str, Scalar]) -> Values:
    """Rebuild the values given to ``pack``; gradients flow through views to their base."""
    values: dict[str, Any] = {**tensors, **scalars}
    for name, view in views.items():
        base = tensors[view.base]
        same = tuple(base.shape) == view.shape and base.stride() == view.stride and not view.offset
        values[name] = base if same else base.contiguous().as_strided(view.shape, view.stride, view.offset)
    return values


def boundary_bytes(values: Values) -> int:
    """Payload bytes of ``values``, each storage counted once."""
    return sum(tensor.nbytes for tensor in pack(values)[0].values())


def _view(name: str, base: torch.Tensor, other: torch.Tensor) -> View | None:
    """The view of ``base`` that equals ``other``, which shares its storage; None if part of it lies outside."""
    if base.dtype != other.dtype or base.requires_grad != other.requires_grad:
        return None  # a detached value must stay detached at the receiver
    offset = int(other.storage_offset() - base.storage_offset())
    if not offset and base.shape == other.shape and base.stride() == other.stride():
        return View(name, tuple(base.shape), torch.empty(base.shape, device="meta").stride(), 0)
    reach = sum((size - 1) * stride for size, stride in zip(other.shape, other.stride(), strict=True))
    if base.is_contiguous() and offset >= 0 and offset + reach < base.numel() and other.numel():
        return View(name, tuple(other.shape), other.stride(), offset)
    return None
