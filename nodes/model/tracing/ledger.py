"""Ledger of a trace: which node of the graph makes each value that the model's code holds.

Every value is known for two sizes of the batch. A number that is the same for both is handed to the model's code as it
is; one that differs becomes a ``Number``, computed where the model runs.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from nodes.model.tracing.aliases import Aliases, Entry
from nodes.model.tracing.modes import ModeReader
from nodes.model.tracing.tree import HERE, map_tree
from nodes.model.tracing.values import (
    BATCHES,
    Members,
    Number,
    Traced,
    UnseenError,
    UntraceableError,
    sizes,
    user_frame,
)

META = torch.device("meta")


class Ledger:
    """The values of one trace and the nodes of ``graph`` that make them.

    Args:
        named: (name, tensor without data) of parameters and buffers, by the identity of what stands for them.
        attributes: Names of other tensors that the model holds, by identity.
        device: Of the model.
        batch: The smallest size of the batch.
    """

    def __init__(
        self, named: dict[int, tuple[str, torch.Tensor]], attributes: dict[int, str], device: torch.device, batch: int
    ) -> None:
        self.graph = fx.Graph()
        self.executing = False  # torch is used without being recorded
        self.constants: dict[str, torch.Tensor] = {}
        self.owners = [""]  # paths of the modules whose forward runs, the innermost last
        self.batches = (batch, *BATCHES)
        self.aliases = Aliases(self._emit_step)
        self._named, self._attributes, self._device = named, attributes, device
        self._entries: dict[int, Entry] = {}
        self._modes = ModeReader()
        self._as_integers: dict[int, tuple[Number, str]] = {}

    # Numbers

    def number(self, function: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
        """``function`` of numbers of which one, at least, differs with the batch."""
        each = zip(*(o.values if isinstance(o, Number) else [o] * len(self.batches) for o in operands), strict=True)
        values = tuple(function(*row) for row in each)
        for operand in operands:
            if isinstance(operand, Number):
                self._check_current(operand)
        if len(set(values)) == 1:
            return values[0]
        make = lambda: self._emit_number("call_function", function, operands, {})  # noqa: E731
        return self._numbered(values, make)

    def _numbered(self, values: tuple[Any, ...], make: Callable[[], fx.Node]) -> Number:
        def made() -> fx.Node:
            node = make()
            node.meta["value"] = values[0]
            return node

        return Number(values, made, self)

    def _emit_number(self, op: str, target: Any, args: Any, kwargs: Any, name: str | None = None) -> fx.Node:
        args, kwargs = map_tree(lambda value: self.graph_node(self.lift(value)), (args, kwargs))
        return self.emit(op, target, args, kwargs, name)

    def taken_as_integer(self, number: Number) -> None:
        """Note that ``number`` was converted: by torch, which hands it on, else by code that would keep its value."""
        if not self.executing:
            self._as_integers.setdefault(id(number), (number, user_frame()))

    def handed_on(self, number: Number) -> None:
        """Note that torch, which keeps it a number, was given ``number``."""
        self._as_integers.pop(id(number), None)

    def check_integers(self) -> None:
        """Raise UntraceableError if a number was converted outside of torch."""
        if self._as_integers:
            _, where = next(iter(self._as_integers.values()))
            self._as_integers.clear()
            raise UntraceableError("the size of the batch used as a plain integer, such as in range()", where)

    def _check_current(self, number: Number) -> None:
        if number.tracer is not self:
            raise UntraceableError("a number kept from an earlier call", user_frame())

    # Tensors and what stands for them

    def placeholder(self, name: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The model's input."""
        node = self.emit("placeholder", name, (), {})
        with self.unseen():
            made: torch.Tensor = self.spread(first, second, lambda: node)
        node.meta["value"] = first
        return made

    def node_of(self, value: Any) -> fx.Node | None:
        """The node that makes ``value``; None unless it is a tensor of the model."""
        if not isinstance(value, torch.Tensor) or not self.follows(value):
            return None
        with self.unseen():
            return self.aliases.node(self.lift(value))

    def follows(self, value: Any) -> bool:
        if isinstance(value, Number):
            return True
        if not isinstance(value, torch.Tensor):
            return False
        entry = self._entries.get(id(value))
        if entry is not None:
            return not entry.constant
        return id(value) in self._named or value.is_meta

    def lift(self, value: Any) -> Any:
        if isinstance(value, Number):
            self._check_current(value)
        if isinstance(value, torch.device):
            return HERE if value is self._device else value
        if isinstance(value, (nn.Module, torch.Generator)):
            raise UnseenError(f"a {type(value).__name__} given to a function of torch", user_frame())
        if not isinstance(value, torch.Tensor):
            return value
        entry = self._entries.get(id(value))
        return entry if entry is not None else self._new_entry(value)

    def _new_entry(self, value: torch.Tensor) -> Entry:
        """The entry of a parameter, a buffer, or a constant, which are the same for all batches."""
        if id(value) in self._named:
            name, tensor = self._named[id(value)]
            if id(tensor) in self._entries:
                self._entries[id(value)] = self._entries[id(tensor)]
                return self._entries[id(value)]
            make = lambda: self.emit("get_attr", name, (), {})  # noqa: E731
            entry = Entry(tensor, tensor, make, named=name, fixed=not isinstance(tensor, nn.Parameter))
        elif value.is_meta:
            raise UntraceableError("a tensor kept from an earlier call, or made where torch is not seen", user_frame())
        else:
            with self.execution():
                empty = value.detach().to(META)
            entry = Entry(empty, empty, lambda: self._constant(value), source=value)
        self._keep(value, entry)
        with self.unseen():
            self.aliases.made(entry)
        return entry

    def _constant(self, value: torch.Tensor) -> fx.Node:
        if id(value) in self._attributes:
            return self.emit("get_attr", self._attributes[id(value)], (), {})
        name = f"_tensor_constant{len(self.constants)}"
        with self.execution():
            self.constants[name] = value.detach().clone()
        return self.emit("get_attr", name, (), {})

    def forget(self, value: torch.Tensor) -> None:
        """Let the constant ``value`` be a new tensor, whose content does not matter."""
        with self.unseen():
            shape, kind, empty = tuple(value.shape), value.dtype, value.detach().to(META)
            make = lambda: self.emit("call_function", torch.empty, (shape,), {"dtype": kind})  # noqa: E731
            entry = Entry(empty, empty, make, source=value)
            self._keep(value, entry)
            self.aliases.made(entry)

    def _keep(self, value: torch.Tensor, entry: Entry) -> None:
        self._entries[id(value)] = self._entries[id(entry.first)] = entry
        entry.holders.append(value)  # an id is of one tensor as long as it lives

    def graph_node(self, value: Any) -> Any:
        if isinstance(value, Entry):
            return self.aliases.node(value)
        return value.node if isinstance(value, Number) else value

    # Results

    def spread(  # noqa: PLR0911
        self, first: Any, second: Any, make: Callable[[], fx.Node], of: Entry | None = None, step: Any = None
    ) -> Any:
        """What the model's code is given for a result; ``make`` gives its node, ``step`` is how a view was made."""
        if isinstance(first, torch.Tensor):
            return self._new_tensor(first, second, make, step)
        if isinstance(first, torch.Size) and len(first) == len(second):
            if of is None:
                raise UntraceableError("a shape that is no tensor's", user_frame())
            return sizes(
                tuple(self._size(of, i, *pair) for i, pair in enumerate(zip(first, second, strict=True))), self.burn
            )
        if isinstance(first, (tuple, list)):
            if len(first) != len(second):
                raise UntraceableError("a number of results that follows from the size of the batch", user_frame())
            items = [
                self.spread(one, other, partial(self.item, make, place), of, step and (*step, place))
                for place, (one, other) in enumerate(zip(first, second, strict=True))
            ]
            if type(first) is not tuple:
                return items if isinstance(first, list) else type(first)(items)
            members = Members(items)
            members.take = self._take
            return members
        if isinstance(first, dict):
            pairs = ((key, self.spread(first[key], second[key], partial(self.item, make, key))) for key in first)
            return type(first)(pairs)
        if type(first) in (int, float) and first != second:
            return self._numbered(self._extrapolated(first, second), make)
        if isinstance(first, bool) and first != second:
            raise UntraceableError("a decision on the size of the batch", user_frame())
        return first

    def _new_tensor(self, first: Any, second: Any, make: Callable[[], fx.Node], step: Any) -> torch.Tensor:
        for tensor in (first, second):
            if type(tensor) is torch.Tensor:
                tensor.__class__ = Traced
        entry = Entry(first, second, make, view=first._is_view())
        self._keep(first, entry)
        self.aliases.made(entry, step)
        made: torch.Tensor = first
        return made

    def _size(self, of: Entry, dimension: int, one: int, other: int) -> Any:
        if one == other:
            return one
        make = lambda: self._emit_number("call_method", "size", (of.first, dimension), {}, "getitem")  # noqa: E731
        return self._numbered(self._extrapolated(one, other), make)

    def _extrapolated(self, one: Any, other: Any) -> tuple[Any, ...]:
        smallest, second = self.batches[:2]
        slope = (other - one) / (second - smallest)
        if isinstance(one, int) and slope != int(slope):
            raise UntraceableError("a size that does not grow with the batch", user_frame())
        return tuple(type(one)(one + slope * (batch - smallest)) for batch in self.batches)

    def _take(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor) and (entry := self._entries.get(id(item))) is not None:
            self.aliases.node(entry)
        return item

    # Nodes

    def burn(self, name: str) -> None:
        """Use up ``name``: what needs no node still counts in the names of those that follow."""
        self.graph._graph_namespace.create_name(name, None)

    def target_name(self, target: Any) -> str:
        name: str = self.graph._target_to_str(target)
        return name

    def item(self, make: Callable[[], fx.Node], place: Any) -> fx.Node:
        """The member ``place`` of what a node makes, right after it."""
        maker = make()
        last = maker.meta.setdefault("last_item", maker)
        with self.graph.inserting_after(last):
            node = self.emit("call_function", operator.getitem, (maker, place), {})
        maker.meta["last_item"] = node
        node.meta["value"] = maker.meta["value"][place]
        return node

    def emit(self, op: str, target: Any, args: Any, kwargs: Any, name: str | None = None) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs, name)
        called = target if isinstance(target, str) else getattr(target, "__name__", "")
        node.meta.update(mode=self._modes.read(), owner=self.owners[-1], where=user_frame(), called=called)
        return node

    def _emit_step(self, op: str, target: Any, arguments: Any, name: str | None = None) -> fx.Node:
        args, kwargs = map_tree(self.graph_node, arguments)
        return self.emit(op, target, args, kwargs, name)

    def watching_regions(self) -> Any:
        """See ``ModeReader.watching_regions``."""
        return self._modes.watching_regions()

    # Running

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Use torch without being recorded."""
        before, self.executing = self.executing, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.executing = before

    @contextmanager
    def execution(self) -> Iterator[None]:
        """Compute values; those made in inference mode would not tell when they are changed."""
        with self.unseen():
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False), torch.no_grad():
                    yield
            else:
                yield
