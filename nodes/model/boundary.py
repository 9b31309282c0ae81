"""Packing of a boundary's values for the wire: each storage once, views by their geometry, and scalars.

Tensors travel in the order of their indices, so a stage and the wire see plain contiguous ones. A value with other
strides, such as a channels-last one, has a view of itself that restores them at the receiver, gaps in memory and
equal elements in one place included: kernels may sum in another order for other strides. Gaps that would take more than
SPREAD times the memory are narrowed; which dimensions are apart stays the same. Gradients return the same way: the
receiver tells strides that are not the value's. The gradient of a view may return by its own name (``returning_views``
and ``apart``), since autograd sums the uses of a view before it adds them to those of its base.
"""

import math
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import torch

from nodes.errors import ProtocolError
from nodes.model.chain import Values

Tensors = dict[str, torch.Tensor]
Scalar = bool | int | float
Place = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]  # of an element, or a size, as a peer may send it
Stride = tuple[Place, ...]
Strides = dict[str, Stride]
SPREAD = 64  # a value or gradient may take as many times its memory: it may be a part of a larger one


class View(msgspec.Struct, frozen=True, array_like=True):
    """A value in the storage of ``base``; ``stride`` and ``offset`` are in elements of it.

    A view of itself has the values of ``base`` at its indices, whatever the storage, and these strides; along strides
    of 0 all elements are equal.
    """

    base: str
    shape: tuple[Place, ...]
    stride: Stride
    offset: Place


def pack(values: Values, strides: Strides | None = None) -> tuple[Tensors, dict[str, View], dict[str, Scalar]]:
    """Split ``values`` into (tensors with a storage each, views of those, scalars).

    Args:
        values: The values at a boundary, by name.
        strides: Filled with the strides of each value whose gradient returns. What it holds in the backward pass are
            the strides in which the gradient flows on.
    """
    tensors = {name: value.resolve_neg() for name, value in values.items() if isinstance(value, torch.Tensor)}
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
    bases = {name: tensor for name, tensor in tensors.items() if name not in views}
    for name, tensor in bases.items():
        stride = _narrowed(tensor.shape, tensor.stride())
        own = tensor.stride() != row_major(tensor.shape) and _can_have(tensor.shape, stride)
        if own:
            views[name] = View(name, tuple(tensor.shape), stride, 0)
        if own or (strides is not None and tensor.requires_grad):
            bases[name] = _Leave.apply(tensor, {} if strides is None else strides, name)
    return bases, views, scalars


def unpack(
    tensors: Tensors, views: dict[str, View], scalars: dict[str, Scalar], strides: Strides | None = None
) -> Values:
    """Rebuild the values given to ``pack``; gradients flow through views to their base.

    Args:
        tensors: Tensors with a storage each, by name.
        views: Views of those.
        scalars: The other values.
        strides: Filled in the backward pass with the strides of gradients that are not those of their values.

    Raises:
        ProtocolError: A view whose elements overlap or are not all in its base.
    """
    for name, view in views.items():
        _check_view(name, view, tensors)
    values: dict[str, Any] = {**tensors, **scalars}
    for name, tensor in tensors.items():
        own = views.get(name)
        if own or (strides is not None and tensor.requires_grad):
            values[name] = _Arrive.apply(tensor, own.stride if own else row_major(tensor.shape), strides, name)
    for name, view in views.items():
        base = tensors[view.base]
        if view.base != name and view == _whole(view.base, base):
            values[name] = values[view.base]
        elif view.base != name:
            values[name] = base.contiguous().as_strided(view.shape, view.stride, view.offset)
    return values


def returning_views(values: Values, views: Mapping[str, View], strides: Strides) -> Tensors:
    """Those of ``values`` packed as ``views`` of another whose gradients can return, as ``pack`` leaves their bases."""
    returning = [name for name, view in views.items() if view.base != name and values[name].requires_grad]
    return {name: _Leave.apply(values[name], strides, name) for name in returning}


def apart(tensors: Tensors, views: Mapping[str, View], names: Container[str]) -> tuple[Tensors, dict[str, View]]:
    """``tensors`` and ``views`` with each view of ``names`` as a tensor of its own, to which a gradient flows apart.

    Raises ProtocolError for one whose elements overlap or are not all in its base.
    """
    own, left = dict(tensors), dict(views)
    for name, view in views.items():
        if view.base == name or name not in names:
            continue
        _check_view(name, view, tensors)
        base, stride = tensors[view.base], view.stride
        if view == _whole(view.base, base):
            own[name] = base
            stride = views[view.base].stride if view.base in views else stride
        else:
            own[name] = base.contiguous().as_strided(view.shape, stride, view.offset).contiguous()
        stride = _narrowed(view.shape, stride)
        left[name] = View(name, view.shape, stride, 0)
        if stride == row_major(view.shape) or not _can_have(view.shape, stride):
            del left[name]
    return own, left


def check_restored(restored: Tensors, arriving: Values, views: Mapping[str, View]) -> None:
    """Raise ProtocolError unless ``restored`` and ``views`` match ``arriving``, the boundary's values for one image.

    The first dimension, and any of size 1, may be the batch's.
    """
    shapes = {name: list(view.shape) for name, view in views.items()}
    shapes |= {name: list(tensor.shape) for name, tensor in restored.items()}
    for name, one in arriving.items():
        if not isinstance(one, torch.Tensor):
            continue
        if name not in shapes:
            raise ProtocolError(f"the stage restored {sorted(restored)}, missing {name}")
        shape, expected = shapes[name], list(one.shape)
        fits = len(shape) == len(expected) and all(
            wanted in (size, 1) for size, wanted in zip(shape[1:], expected[1:], strict=True)
        )
        if not fits:
            raise ProtocolError(f"the stage restored {name} as {shape}; expected {expected}, except for the batch")
        came = restored[views[name].base if name in views else name].dtype
        if came != one.dtype and not (came.is_floating_point and one.dtype.is_floating_point):
            raise ProtocolError(f"the stage restored {name} as {came}; expected {one.dtype}")


def rows_of(views: Mapping[str, View], rows: int) -> dict[str, View]:
    """``views`` of themselves, for the first ``rows`` of their samples; none where samples are interleaved."""
    outermost = {name: view for name, view in views.items() if view.stride[:1] == (max(view.stride, default=1),)}
    return {name: msgspec.structs.replace(view, shape=(rows, *view.shape[1:])) for name, view in outermost.items()}


def boundary_bytes(values: Values) -> int:
    """Payload bytes of ``values``, each storage counted once."""
    return sum(tensor.nbytes for tensor in pack(values)[0].values())


def row_major(shape: Sequence[int]) -> Stride:
    """Strides of a new tensor of ``shape``."""
    return tuple(math.prod(max(size, 1) for size in shape[place + 1 :]) for place in range(len(shape)))


class _Leave(torch.autograd.Function):
    """A value in the order of its indices; its gradient flows on with the strides that are known then."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, strides: Strides, name: str) -> torch.Tensor:
        ctx.strides, ctx.name = strides, name
        strides[name] = _narrowed(value.shape, value.stride())
        return _strided(value, row_major(value.shape))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        stride = ctx.strides[ctx.name]
        if not _can_have(gradient.shape, stride):
            raise ProtocolError(f"the gradient of {ctx.name} {list(gradient.shape)} cannot have strides {list(stride)}")
        return _strided(gradient, stride), None, None


class _Arrive(torch.autograd.Function):
    """A value with its strides; its gradient is put in the order of its indices, and its own strides are noted."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, stride: Stride, strides: Strides | None, name: str) -> torch.Tensor:
        ctx.stride, ctx.strides, ctx.name = stride, strides, name
        first = value[tuple(map(slice, _sizes(value.shape, stride)))]
        if 0 in stride and not value.is_meta and not torch.equal(first.expand(value.shape), value):
            return value.detach()  # a stage made equal elements differ
        return _strided(value, stride)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        stride = _narrowed(gradient.shape, gradient.stride())
        if ctx.strides is not None and stride != ctx.stride and _can_have(gradient.shape, stride):
            ctx.strides[ctx.name] = stride
        return _strided(gradient, row_major(gradient.shape)), None, None, None


def _strided(tensor: torch.Tensor, stride: Stride) -> torch.Tensor:
    """``tensor`` with ``stride``, copied only if it has others; of those in one place the first is taken."""
    if tensor.stride() == stride:
        return tensor.detach()  # unlike a view it keeps the strides of dimensions of size 1
    sizes = _sizes(tensor.shape, stride)
    first = tensor[tuple(map(slice, sizes))]
    made = torch.empty_strided(sizes, stride, dtype=tensor.dtype, device=tensor.device).copy_(first)
    # Not through a view if that can be: autograd adds to a tensor in place, with its strides.
    return made if sizes == list(tensor.shape) else made.expand(tensor.shape)


def _narrowed(shape: Sequence[int], stride: Stride) -> Stride:
    """``stride``, with narrower gaps where they would take too much memory; row-major without elements."""
    if 0 in shape:
        return row_major(shape)
    if _reach(shape, stride) < SPREAD * math.prod(_sizes(shape, stride)):
        return stride
    steps, extent, narrow = list(stride), 1, 1  # the extents so far: given, and with narrower gaps
    for place in sorted(range(len(shape)), key=lambda place: (stride[place], shape[place])):
        if stride[place] and shape[place] > 1:
            steps[place] = narrow if stride[place] == extent else 2 * narrow
            extent, narrow = stride[place] * shape[place], steps[place] * shape[place]
    return tuple(steps)


def _can_have(shape: Sequence[int], stride: Stride) -> bool:
    """Whether a tensor of ``shape`` may have ``stride``: equal elements at most along whole dimensions."""
    if 0 in shape:
        return tuple(stride) == row_major(shape)
    sizes = _sizes(shape, stride)
    return len(stride) == len(shape) and _is_apart(sizes, stride) and _reach(sizes, stride) < SPREAD * math.prod(sizes)


def _sizes(shape: Sequence[int], stride: Sequence[int]) -> list[int]:
    """``shape`` with size 1 where the stride is 0, for all elements are equal there."""
    return [size if step else 1 for size, step in zip(shape, stride, strict=False)]


def _is_apart(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether each element has a place of its own in memory."""
    reach = 0
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size != 1):
        if step <= reach:
            return False
        reach += (size - 1) * step
    return True


def _is_part(view: View, base: torch.Tensor) -> bool:
    """Whether the elements of ``view`` are apart and all in ``base``, which is contiguous."""
    last = view.offset + _reach(view.shape, view.stride)
    return _is_apart(view.shape, view.stride) and 0 <= view.offset <= last < base.numel()


def _reach(shape: Sequence[int], stride: Sequence[int]) -> int:
    """The place of the last element, counted from the first."""
    return sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _whole(name: str, base: torch.Tensor) -> View:
    """The view that is ``base`` itself, called ``name``."""
    return View(name, tuple(base.shape), row_major(base.shape), 0)


def _check_view(name: str, view: View, tensors: Tensors) -> None:
    """Raise ProtocolError unless the elements of ``view`` are apart and in its base."""
    base = tensors.get(view.base)
    fits = base is not None and len(view.shape) == len(view.stride)
    if base is not None and fits and view.base == name:
        fits = tuple(base.shape) == view.shape and not view.offset and _can_have(view.shape, view.stride)
    elif base is not None and fits:
        fits = view == _whole(view.base, base) or _is_part(view, base)
    if not fits:
        of = "nothing" if base is None else f"{list(base.shape)}"
        raise ProtocolError(
            f"{name}: a view of shape {list(view.shape)}, strides {list(view.stride)} and offset {view.offset} is not "
            f"part of {view.base}, which is {of}"
        )


def _view(name: str, base: torch.Tensor, other: torch.Tensor) -> View | None:
    """The view of ``base`` that equals ``other``, which shares its storage; None if part of it lies outside."""
    if base.dtype != other.dtype or base.requires_grad != other.requires_grad:
        return None  # a detached value must stay detached at the receiver
    offset = int(other.storage_offset() - base.storage_offset())
    if not offset and base.shape == other.shape and base.stride() == other.stride():
        return _whole(name, base)
    view = View(name, tuple(other.shape), other.stride(), offset)
    return view if base.is_contiguous() and _is_part(view, base) else None
