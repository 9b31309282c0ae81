"""Recording of a model's forward pass: torch's functions run on tensors without data, and become nodes of a graph.

Every value is computed for two sizes of the batch. A number that is the same for both is handed to the model's code as
it is; one that differs becomes a ``Number``, computed where the model runs.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils._device import _device_constructors

from nodes.model.tracing.aliases import Aliases, Entry
from nodes.model.tracing.autocast import cast_like, casts
from nodes.model.tracing.modes import ModeReader
from nodes.model.tracing.pure import SHAPED_IN_PLACE, asks_in_place, pure_call, same_layout
from nodes.model.tracing.tree import HERE, any_leaf, leaves, map_tree
from nodes.model.tracing.values import (
    BATCHES,
    Members,
    Number,
    Traced,
    UntraceableError,
    WrongInputError,
    sizes,
    user_frame,
)

META = torch.device("meta")
READS_VALUES = {"__bool__", "item", "__int__", "__float__", "__index__", "tolist", "numpy", "__array__", "is_nonzero"}
READS_VALUES |= {"equal", "allclose", "nonzero", "unique", "masked_select", "__contains__", "argwhere", "__complex__"}
REFUSED = {"requires_grad_", "register_hook", "retain_grad", "backward", "grad", "register_post_accumulate_grad_hook"}
FILLS = {f"{name}_" for name in ("uniform", "normal", "exponential", "random", "bernoulli", "cauchy", "geometric")}
TO_DEVICE = {"cpu", "cuda"}  # methods


class Recorder(TorchFunctionMode):
    """Records what runs while it is entered into ``graph``.

    Args:
        named: (name, tensor without data) of parameters and buffers, by the identity of what stands for them.
        attributes: Names of other tensors that the model holds, by identity.
        device: Of the model; what the model's code reads as the device of its tensors.
        batch: The smallest size of the batch.
    """

    def __init__(
        self, named: dict[int, tuple[str, torch.Tensor]], attributes: dict[int, str], device: torch.device, batch: int
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.executing = False
        self.constants: dict[str, torch.Tensor] = {}
        self.owners = [""]  # paths of the modules whose forward runs, the innermost last
        self.batches = (batch, *BATCHES)
        self._named, self._attributes, self._device = named, attributes, device
        self._entries: dict[int, Entry] = {}
        self._aliases = Aliases(self._emit_step)
        self._modes = ModeReader()
        self._as_integers: dict[int, tuple[Number, str]] = {}

    def __enter__(self) -> "Recorder":
        Traced.tracer = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        Traced.tracer = None

    # What the model's code calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.executing:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "__delete__") and hasattr(func, "__self__"):
            attribute = getattr(func.__self__, "__name__", None) or func.__self__.fget.__name__
            return self._attribute(func, name, attribute, args)
        if not self.follows((args, kwargs)):
            state = torch.default_generator.get_state()
            made = func(*args, **kwargs)
            if torch.equal(state, torch.default_generator.get_state()):
                return made
            if name in FILLS and isinstance(args[0], torch.Tensor):
                self._forget(args[0])
        if is_tensor_method_or_property(func):
            return self.record("call_method", name, args, kwargs)
        return self.record("call_function", func, args, kwargs)

    def follows(self, arguments: Any) -> bool:
        """Whether a value in ``arguments`` follows from the model's input, parameters or buffers, or is drawn."""
        return any_leaf(self._follows, arguments)

    def _follows(self, value: Any) -> bool:
        if isinstance(value, Number):
            return True
        if not isinstance(value, torch.Tensor):
            return False
        entry = self._entries.get(id(value))
        if entry is not None:
            return not entry.constant
        return id(value) in self._named or value.is_meta

    def _attribute(self, func: Any, access: str, name: str, args: tuple[Any, ...]) -> Any:
        tensor = args[0]
        if not self._follows(tensor):
            return func(*args)
        if access != "__get__":
            raise UntraceableError(f"an assignment to .{name} of a tensor", user_frame())
        if name == "device":
            return self._device
        entry = self._lift(tensor)
        with self._execution():
            first, second = getattr(entry.first, name), getattr(entry.second, name)
        if isinstance(first, torch.Tensor):
            return self.record("call_function", getattr, (tensor, name), {})
        self.burn("getattr")
        return self._spread(first, second, lambda: self._emit("call_function", getattr, (entry.node, name), {}), entry)

    def length(self, tensor: Any) -> Any:
        """``len`` of a tensor."""
        return self.record("call_method", "size", (tensor, 0), {})

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
        args, kwargs = map_tree(lambda value: self._node_of(self._lift(value)), (args, kwargs))
        return self._emit(op, target, args, kwargs, name)

    def taken_as_integer(self, number: Number) -> None:
        """Note that ``number`` was converted: by torch, which hands it on, else by code that would keep its value."""
        if not self.executing:
            self._as_integers.setdefault(id(number), (number, user_frame()))

    def check_integers(self) -> None:
        """Raise UntraceableError if a number was converted outside of torch."""
        if self._as_integers:
            _, where = next(iter(self._as_integers.values()))
            self._as_integers.clear()
            raise UntraceableError("the size of the batch used as a plain integer, such as in range()", where)

    def _check_current(self, number: Number) -> None:
        if number.tracer is not self:
            raise UntraceableError("a number kept from an earlier call", user_frame())

    # Recording

    def record(self, op: str, target: Any, args: Any, kwargs: Any, run: Callable[..., Any] | None = None) -> Any:
        """Run an operation for both batches and record it; ``run`` computes it in place of ``target``."""
        with self._unseen():
            return self._record(op, target, args, kwargs, run)

    def _record(self, op: str, target: Any, args: Any, kwargs: Any, run: Callable[..., Any] | None) -> Any:
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if op != "call_module" and name in REFUSED:
            raise UntraceableError(f"{name}() on a tensor of the model", user_frame())
        lifted = map_tree(self._lift, (args, kwargs))
        entries = leaves(Entry, lifted)
        for number in leaves(Number, lifted):
            self._as_integers.pop(id(number), None)
        self.check_integers()
        for entry in entries:
            self._aliases.refresh(entry)
            if target in SHAPED_IN_PLACE:
                with self._execution():
                    self._aliases.node(entry).meta["value"] = entry.first.detach()
        versions = [entry.first._version for entry in entries]
        call = run or _runner(op, target)
        first = self._run(call, name, map_tree(_first, lifted))
        second = self._run(call, name, map_tree(_second, lifted))
        changed = [
            entry
            for entry, version in zip(entries, versions, strict=True)
            if entry.first._version != version or (first is entry.first and asks_in_place(target, args, kwargs))
        ]
        if changed:
            return self._record_change(op, target, lifted, changed, first)
        views = {id(entry.first): entry for entry in entries}
        if id(first) in views:  # returned as it is; both names must be told apart
            entry = views[id(first)]
            with self._execution():
                first, second = entry.first.view_as(entry.first), entry.second.view_as(entry.second)
        nodes = map_tree(self._node_of, lifted)
        if not any_leaf(lambda value: isinstance(value, torch.Tensor), first):
            if op == "call_module":
                raise UntraceableError(f"a module that returns {type(first).__name__}, no tensor", user_frame())
            of = entries[0] if entries else None
            result = self._spread(first, second, lambda: self._emit(op, target, *nodes), of)
            if not isinstance(result, Number):
                self.burn(self._name(target))
            return result
        node = self._emit(op, target, *nodes)
        node.meta["value"] = first
        result = self._spread(first, second, lambda: node, None, (op, target, lifted))
        if entries and all(entry.fixed for entry in entries):  # of buffers alone: part of what reads it
            node.meta["joined"] = True
            for tensor in leaves(torch.Tensor, result):
                self._entries[id(tensor)].fixed = True
        return result

    def _record_change(self, op: str, target: Any, lifted: Any, changed: list[Entry], result: Any) -> Any:
        """Record an operation that changes ``changed`` as one that makes new tensors."""
        for entry in changed:
            if entry.named:
                raise UntraceableError(f"a change of {entry.named}, a parameter or buffer, in place", user_frame())
        entry, name = changed[0], self._name(target)
        if target in SHAPED_IN_PLACE:
            args, kwargs = map_tree(self._node_of, lifted)
            node = self._emit(op, target[:-1], args, kwargs, name)
            self._aliases.reshaped(entry, node, (op, target[:-1], lifted))
            return self._held(entry)
        alone = len(changed) == 1 and (result is None or result is entry.first)
        if op != "call_module" and alone and self._pure_like(op, target, lifted, entry):
            node = self._emit(*pure_call(op, target, *map_tree(self._node_of, lifted)), name)  # type: ignore[misc, call-arg]
            node.meta["called"] = target if isinstance(target, str) else target.__name__
            self._aliases.changed(entry, node)
            return None if result is None else self._held(entry)
        copies = {}
        for entry in changed:
            copies[entry] = self._emit("call_method", "clone", (self._aliases.node(entry),), {})
            copies[entry].meta["joined"] = True
        node = self._emit(op, target, *map_tree(lambda leaf: copies.get(leaf) or self._node_of(leaf), lifted))
        for entry in changed:
            self._aliases.changed(entry, node if result is entry.first else copies[entry])
            if result is entry.first:
                return self._held(entry)
        if isinstance(result, torch.Tensor):
            return self._spread(result, result, lambda: node)
        if result is not None:
            raise UntraceableError("an operation that changes a tensor in place and returns several", user_frame())
        return None

    def _pure_like(self, op: str, target: Any, lifted: Any, entry: Entry) -> bool:
        """Whether there is an operation that makes, as a new tensor, what ``target`` makes of ``entry``."""
        pure = pure_call(op, target, *lifted)
        if pure is None:
            return False
        made = self._run(_runner(*pure[:2]), "", map_tree(_second, pure[2:]))
        return same_layout(made, entry.second)

    def replace(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Let ``old`` be ``new`` from here on, as after a change in place; return it."""
        with self._unseen():
            entry = self._lift(old)
            self._aliases.changed(entry, self._aliases.node(self._lift(new)))
        return self._held(entry)

    def draws(self, result: torch.Tensor) -> None:
        """Note that the layer of ``result`` draws outside of torch."""
        with self._unseen():
            self._aliases.node(self._lift(result)).meta["draws"] = True

    def _held(self, entry: Entry) -> torch.Tensor:
        return entry.source if entry.source is not None else entry.first

    def _run(self, call: Callable[..., Any], name: str, arguments: Any) -> Any:
        args, kwargs = arguments
        if name in TO_DEVICE or (name == "to" and any(isinstance(value, str) for value in args)):
            return args[0]
        if call in _device_constructors():
            kwargs = {**kwargs, "device": META}
        try:
            with self._execution():
                made = call(*args, **kwargs)
                return cast_like(self._device, call, args, kwargs, made) if casts(self._device) else made
        except (UntraceableError, WrongInputError):
            raise
        except Exception as error:
            if name in READS_VALUES or "meta" in str(error) or isinstance(error, NotImplementedError):
                raise UntraceableError(f"{name}() needs the values of a tensor", user_frame()) from error
            raise

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Use torch without being recorded."""
        before, self.executing = self.executing, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.executing = before

    @contextmanager
    def _execution(self) -> Iterator[None]:
        """Compute values; those made in inference mode would not tell when they are changed."""
        with self._unseen():
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False), torch.no_grad():
                    yield
            else:
                yield

    # Values to entries and back

    def _lift(self, value: Any) -> Any:
        if isinstance(value, Number):
            self._check_current(value)
        if isinstance(value, torch.device):
            return HERE if value is self._device else value
        if isinstance(value, (nn.Module, torch.Generator)):
            raise UntraceableError(f"a {type(value).__name__} given to a function of torch", user_frame())
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
            make = lambda: self._emit("get_attr", name, (), {})  # noqa: E731
            entry = Entry(tensor, tensor, make, named=name, fixed=not isinstance(tensor, nn.Parameter))
        elif value.is_meta:
            raise UntraceableError("a tensor kept from an earlier call, or made where torch is not seen", user_frame())
        else:
            with self._execution():
                empty = value.detach().to(META)
            entry = Entry(empty, empty, lambda: self._constant(value), source=value)
        self._keep(value, entry)
        with self._unseen():
            self._aliases.made(entry)
        return entry

    def _constant(self, value: torch.Tensor) -> fx.Node:
        if id(value) in self._attributes:
            return self._emit("get_attr", self._attributes[id(value)], (), {})
        name = f"_tensor_constant{len(self.constants)}"
        with self._execution():
            self.constants[name] = value.detach().clone()
        return self._emit("get_attr", name, (), {})

    def _forget(self, value: torch.Tensor) -> None:
        """Let the constant ``value`` be a new tensor, whose content does not matter."""
        with self._unseen():
            shape, kind, empty = tuple(value.shape), value.dtype, value.detach().to(META)
            make = lambda: self._emit("call_function", torch.empty, (shape,), {"dtype": kind})  # noqa: E731
            entry = Entry(empty, empty, make, source=value)
            self._keep(value, entry)
            self._aliases.made(entry)

    def _keep(self, value: torch.Tensor, entry: Entry) -> None:
        self._entries[id(value)] = self._entries[id(entry.first)] = entry
        entry.holders.append(value)  # an id is of one tensor as long as it lives

    def _node_of(self, value: Any) -> Any:
        if isinstance(value, Entry):
            return self._aliases.node(value)
        return value.node if isinstance(value, Number) else value

    def placeholder(self, name: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The model's input."""
        node = self._emit("placeholder", name, (), {})
        with self._unseen():
            made: torch.Tensor = self._spread(first, second, lambda: node)
        node.meta["value"] = first
        return made

    def node_of(self, value: Any) -> fx.Node | None:
        """The node that makes ``value``; None unless it is a tensor of the model."""
        if not isinstance(value, torch.Tensor) or not self._follows(value):
            return None
        with self._unseen():
            return self._aliases.node(self._lift(value))

    def _spread(  # noqa: PLR0911
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
                self._spread(one, other, partial(self.item, make, place), of, step and (*step, place))
                for place, (one, other) in enumerate(zip(first, second, strict=True))
            ]
            if type(first) is not tuple:
                return items if isinstance(first, list) else type(first)(items)
            members = Members(items)
            members.take = self._take
            return members
        if isinstance(first, dict):
            pairs = ((key, self._spread(first[key], second[key], partial(self.item, make, key))) for key in first)
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
        entry = Entry(first, second, make)
        self._keep(first, entry)
        self._aliases.made(entry, step)
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
            self._aliases.node(entry)
        return item

    # Nodes

    def burn(self, name: str) -> None:
        """Use up ``name``: what needs no node still counts in the names of those that follow."""
        self.graph._graph_namespace.create_name(name, None)

    def _name(self, target: Any) -> str:
        name: str = self.graph._target_to_str(target)
        return name

    def item(self, make: Callable[[], fx.Node], place: Any) -> fx.Node:
        """The member ``place`` of what a node makes, right after it."""
        maker = make()
        last = maker.meta.setdefault("last_item", maker)
        with self.graph.inserting_after(last):
            node = self._emit("call_function", operator.getitem, (maker, place), {})
        maker.meta["last_item"] = node
        node.meta["value"] = maker.meta["value"][place]
        return node

    def _emit(self, op: str, target: Any, args: Any, kwargs: Any, name: str | None = None) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs, name)
        called = target if isinstance(target, str) else getattr(target, "__name__", "")
        node.meta.update(mode=self._modes.read(), owner=self.owners[-1], where=user_frame(), called=called)
        return node

    def _emit_step(self, op: str, target: Any, arguments: Any) -> fx.Node:
        args, kwargs = map_tree(self._node_of, arguments)
        return self._emit(op, target, args, kwargs)

    def watching_regions(self) -> Any:
        """See ``ModeReader.watching_regions``."""
        return self._modes.watching_regions()


def _runner(op: str, target: Any) -> Callable[..., Any]:
    if op == "call_method":
        return lambda tensor, *args, **kwargs: getattr(tensor, target)(*args, **kwargs)
    run: Callable[..., Any] = target
    return run


def _first(value: Any) -> Any:
    return value.first if isinstance(value, Entry) else _plain(value, 0)


def _second(value: Any) -> Any:
    return value.second if isinstance(value, Entry) else _plain(value, 1)


def _plain(value: Any, place: int) -> Any:
    if isinstance(value, Number):
        return value.values[place]
    return META if value is HERE or isinstance(value, torch.device) else value
