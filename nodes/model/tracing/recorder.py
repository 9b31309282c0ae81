"""Recording of a model's forward pass: torch's functions run on tensors without data, and become nodes of a graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils._device import _device_constructors

from nodes.model.tracing.aliases import Entry
from nodes.model.tracing.ledger import META, Ledger
from nodes.model.tracing.modes import cast_like, casts
from nodes.model.tracing.pure import SHAPED_IN_PLACE, asks_in_place, pure_call, same_layout
from nodes.model.tracing.tree import HERE, any_leaf, leaves, map_tree
from nodes.model.tracing.values import Number, Traced, UnseenError, UntraceableError, WrongInputError, user_frame

READS_VALUES = {"__bool__", "item", "__int__", "__float__", "__index__", "tolist", "numpy", "__array__", "is_nonzero"}
READS_VALUES |= {"equal", "allclose", "nonzero", "unique", "masked_select", "__contains__", "argwhere", "__complex__"}
REFUSED = {
    "data_ptr",
    "requires_grad_",
    "register_hook",
    "retain_grad",
    "backward",
    "grad",
    "register_post_accumulate_grad_hook",
}
FILLS = {f"{name}_" for name in ("uniform", "normal", "exponential", "random", "bernoulli", "cauchy", "geometric")}
IS_ON = {"is_cpu", "is_cuda", "is_meta", "is_mps", "is_xpu"}
TO_DEVICE = {"cpu", "cuda"}  # methods


class Recorder(TorchFunctionMode):
    """Records what runs while it is entered into the graph of ``ledger``, whose ``device`` the model's code reads."""

    def __init__(self, ledger: Ledger, device: torch.device) -> None:
        super().__init__()
        self.ledger, self._device = ledger, device
        self._seed = torch.initial_seed()

    @property
    def executing(self) -> bool:
        """Whether torch is used without being recorded."""
        return self.ledger.executing

    def __enter__(self) -> "Recorder":
        Traced.tracer = self
        super().__enter__()  # type: ignore[no-untyped-call]  # torch has no types here
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch has no types here
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
                self.ledger.forget(args[0])
        if is_tensor_method_or_property(func):
            return self.record("call_method", name, args, kwargs)
        return self.record("call_function", func, args, kwargs)

    def follows(self, arguments: Any) -> bool:
        """Whether a value in ``arguments`` follows from the model's input, parameters or buffers, or is drawn."""
        return any_leaf(self.ledger.follows, arguments)

    def _attribute(self, func: Any, access: str, name: str, args: tuple[Any, ...]) -> Any:
        tensor = args[0]
        if not self.ledger.follows(tensor):
            return func(*args)
        if access != "__get__":
            raise UnseenError(f"an assignment to .{name} of a tensor", user_frame())
        if name == "device":
            return self._device
        if name in IS_ON:
            return self._device.type == name.removeprefix("is_")
        entry = self.ledger.lift(tensor)
        with self.ledger.execution():
            first, second = getattr(entry.first, name), getattr(entry.second, name)
        if isinstance(first, torch.Tensor):
            return self.record("call_function", getattr, (tensor, name), {})
        self.ledger.burn("getattr")
        return self.ledger.spread(
            first, second, lambda: self.ledger.emit("call_function", getattr, (entry.node, name), {}), entry
        )

    def length(self, tensor: Any) -> Any:
        """``len`` of a tensor."""
        return self.record("call_method", "size", (tensor, 0), {})

    # Recording

    def record(self, op: str, target: Any, args: Any, kwargs: Any, run: Callable[..., Any] | None = None) -> Any:
        """Run an operation for both batches and record it; ``run`` computes it in place of ``target``."""
        with self.ledger.unseen():
            return self._record(op, target, args, kwargs, run)

    def _record(self, op: str, target: Any, args: Any, kwargs: Any, run: Callable[..., Any] | None) -> Any:
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        self._check_allowed(op, name)
        lifted = map_tree(self.ledger.lift, (args, kwargs))
        entries = leaves(Entry, lifted)
        for number in leaves(Number, lifted):
            self.ledger.handed_on(number)
        self.ledger.check_integers()
        for entry in entries:
            self.ledger.aliases.refresh(entry)
            if target in SHAPED_IN_PLACE:
                with self.ledger.execution():
                    self.ledger.aliases.node(entry).meta["value"] = entry.first.detach()
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
            return self._record_change(op, target, lifted, changed, (first, second))
        same = {id(entry.first): entry for entry in entries}.get(id(first))
        if same is not None:  # returned as it is; both names must be told apart
            with self.ledger.execution():
                first, second = same.first.view_as(same.first), same.second.view_as(same.second)
        nodes = map_tree(self.ledger.graph_node, lifted)
        if not any_leaf(lambda value: isinstance(value, torch.Tensor), first):
            if op == "call_module":
                raise UntraceableError(f"a module that returns {type(first).__name__}, no tensor", user_frame())
            of = entries[0] if entries else None
            result = self.ledger.spread(first, second, lambda: self.ledger.emit(op, target, *nodes), of)
            if not isinstance(result, Number):
                self.ledger.burn(self.ledger.target_name(target))
            return result
        node = self.ledger.emit(op, target, *nodes)
        node.meta["value"] = first
        result = self.ledger.spread(first, second, lambda: node, None, (op, target, lifted))
        if same is not None:
            self.ledger.lift(result).view = same.view
        if entries and all(entry.fixed for entry in entries):  # of buffers alone: part of what reads it
            node.meta["joined"] = True
            for tensor in leaves(torch.Tensor, result):
                self.ledger.lift(tensor).fixed = True
        return result

    def _check_allowed(self, op: str, name: str) -> None:
        if torch.initial_seed() != self._seed:
            raise UnseenError("the generator of torch is seeded", user_frame())
        if op != "call_module" and name in REFUSED:
            raise UnseenError(f"{name}() on a tensor of the model", user_frame())

    def _record_change(self, op: str, target: Any, lifted: Any, changed: list[Entry], results: tuple[Any, Any]) -> Any:
        """Record an operation that changes ``changed`` as one that makes new tensors. ``results``: of both batches."""
        result = results[0]
        for entry in changed:
            if entry.first.requires_grad and not torch.is_grad_enabled():
                raise UnseenError("a change in place, without gradients, of a tensor that has one", user_frame())
            if entry.named:
                raise UntraceableError(f"a change of {entry.named}, a parameter or buffer, in place", user_frame())
        entry, name = changed[0], self.ledger.target_name(target)
        if target in SHAPED_IN_PLACE:
            args, kwargs = map_tree(self.ledger.graph_node, lifted)
            node = self.ledger.emit(op, target[:-1], args, kwargs, name)
            self.ledger.aliases.reshaped(entry, node, (op, target[:-1], lifted))
            return self._held(entry)
        alone = len(changed) == 1 and (result is None or result is entry.first)
        if op != "call_module" and alone and entry.view and self.ledger.aliases.has_steps(entry):
            self.ledger.aliases.changed_through(entry, (op, target, lifted), name)
            return None if result is None else self._held(entry)
        if op != "call_module" and alone and self._pure_like(op, target, lifted, entry):
            pure = pure_call(op, target, *map_tree(self.ledger.graph_node, lifted))
            assert pure is not None, target
            node = self.ledger.emit(*pure, name)
            node.meta["called"] = target if isinstance(target, str) else target.__name__
            self.ledger.aliases.changed(entry, node)
            return None if result is None else self._held(entry)
        copies = {}
        for entry in changed:
            copies[entry] = self.ledger.emit("call_method", "clone", (self.ledger.aliases.node(entry),), {})
            copies[entry].meta["joined"] = True
        node = self.ledger.emit(
            op, target, *map_tree(lambda leaf: copies.get(leaf) or self.ledger.graph_node(leaf), lifted)
        )
        for entry in changed:
            self.ledger.aliases.changed(entry, node if result is entry.first else copies[entry])
            if result is entry.first:
                return self._held(entry)
        if isinstance(result, torch.Tensor):
            return self.ledger.spread(*results, lambda: node)
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
        with self.ledger.unseen():
            entry = self.ledger.lift(old)
            self.ledger.aliases.changed(entry, self.ledger.aliases.node(self.ledger.lift(new)))
        return self._held(entry)

    def draws(self, result: torch.Tensor) -> None:
        """Note that the layer of ``result`` draws outside of torch."""
        with self.ledger.unseen():
            self.ledger.aliases.node(self.ledger.lift(result)).meta["draws"] = True

    def _held(self, entry: Entry) -> torch.Tensor:
        return entry.source if entry.source is not None else entry.first

    def _run(self, call: Callable[..., Any], name: str, arguments: Any) -> Any:
        args, kwargs = arguments
        if name in TO_DEVICE or (name == "to" and any(isinstance(value, str) for value in args)):
            return args[0]
        if call in _device_constructors():
            kwargs = {**kwargs, "device": META}
        try:
            with self.ledger.execution():
                made = call(*args, **kwargs)
                return cast_like(self._device, call, args, kwargs, made) if casts(self._device) else made
        except (UntraceableError, WrongInputError):
            raise
        except Exception as error:
            if name in READS_VALUES or "meta" in str(error) or isinstance(error, NotImplementedError):
                raise UntraceableError(f"{name}() needs the values of a tensor", user_frame()) from error
            raise


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
