"""Tracing of a model into one fx graph for training and evaluation, free of in-place operations."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from nodes.errors import ModelError, one_line

Arguments = dict[int | str, Any]  # by position or name


class _ByMode(nn.Module):
    """A function with some arguments, by position or name, that differ between training and evaluation."""

    def __init__(self, function: Callable[..., Any], train: Arguments, evaluate: Arguments) -> None:
        super().__init__()
        self._function, self._train, self._evaluate = function, train, evaluate

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        chosen = self._train if self.training else self._evaluate
        by_place = (chosen.get(place, given) for place, given in enumerate(args))
        by_name = {name: chosen.get(name, given) for name, given in kwargs.items()}
        return self._function(*by_place, **by_name)


IN_PLACE = {
    getattr(operator, name): getattr(operator, f"__{name[3:]}")
    for name in dir(operator)  # __iadd__ and __add__ and so on
    if name.startswith("__i") and hasattr(operator, f"__{name[3:]}")
}


class _Proxy(fx.Proxy):
    """Records ``x += y`` as such. fx records ``x = x + y``, which leaves other names of x unchanged."""


def _recorded(operation: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _operation in IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _recorded(_operation))


class _Tracer(fx.Tracer):
    """Traces into a model's own modules, except the given leaves and modules with ``whole = True``."""

    def __init__(self, leaves: set[str]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = module_qualified_name in self._leaves or getattr(m, "whole", False) is True
        return whole or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of ``model`` for both modes; modules that differ between them stay leaves. Raises ModelError."""
    leaves: set[str] = set()
    mode = model.training
    try:
        while True:
            evaluate, train = _traced(model.eval(), leaves), _traced(model.train(), leaves)
            _follow_mode(model, train, evaluate)
            if str(train) == str(evaluate):
                return train
            one, other = _by_owner(train), _by_owner(evaluate)
            differing = {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
            if "" in differing or differing <= leaves:
                raise ModelError(
                    "operations outside any module differ between training and evaluation; move them into a module"
                )
            leaves |= differing
    finally:
        model.train(mode)


def _traced(model: nn.Module, leaves: set[str]) -> fx.Graph:
    # fx leaves the tensor constants of an earlier trace in the model; without them this trace reuses their names.
    for name in [name for name in vars(model) if name.startswith("_tensor_constant")]:
        delattr(model, name)
    try:
        return _Tracer(leaves).trace(model)
    except Exception as error:
        raise ModelError(f"the model cannot be traced: {one_line(error)}") from error


def _follow_mode(model: nn.Module, train: fx.Graph, evaluate: fx.Graph) -> None:
    """Turn functions that take the mode, such as ``F.dropout(x, p, self.training)``, into modules."""
    for one, other in zip(train.nodes, evaluate.nodes, strict=False):
        if one.op == "call_function" and one.target is other.target and not _changes_in_place(one.target):
            given, otherwise = _constants(one), _constants(other)
            differing = {key for key in given.keys() & otherwise.keys() if given[key] != otherwise[key]}
            if differing:
                chosen = [{key: constants[key] for key in differing} for constants in (given, otherwise)]
                name = f"_by_mode_{one.name}"
                model.add_module(name, _ByMode(one.target, *chosen))
                for node in (one, other):
                    node.op, node.target = "call_module", name
                    node.args = tuple(None if place in differing else arg for place, arg in enumerate(node.args))
                    node.kwargs = {key: None if key in differing else arg for key, arg in node.kwargs.items()}


def _constants(node: fx.Node) -> Arguments:
    def constant(argument: Any) -> bool:
        made: list[fx.Node] = []
        fx.map_arg(argument, made.append)
        return not made

    arguments: Iterable[tuple[int | str, Any]] = itertools.chain(enumerate(node.args), node.kwargs.items())
    return {key: argument for key, argument in arguments if constant(argument)}


def _by_owner(graph: fx.Graph) -> dict[str, list[Any]]:
    """The operations that each module runs itself, without their operands."""
    owned: dict[str, list[Any]] = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        path = next(reversed([path for path, _ in stack.values()]), "")
        if node.op == "call_module" and path == node.target:
            path = path.rpartition(".")[0]
        arguments = str(fx.map_arg((node.args, node.kwargs), lambda _: None))
        owned.setdefault(path, []).append((node.op, node.target, arguments))
    return owned


def input_and_output(graph: fx.Graph) -> tuple[str, str]:
    """Names of the input and the output of ``graph``. Raises ModelError unless there is one of each."""
    first, *others = (node for node in graph.nodes if node.op == "placeholder")
    if any(node.users or not node.args for node in others):  # an unused argument with a default is permitted
        raise ModelError("the model takes several inputs; expected one tensor, the pictures")
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise ModelError(f"the model returns a {type(result).__name__}; expected one tensor")
    return first.name, result.name


def clear_in_place(model: nn.Module, graph: fx.Graph, observed: dict[fx.Node, Any]) -> bool:
    """Replace in-place operations by pure ones; later readers of the changed tensor read the result.

    ``observed`` are the values of the nodes of ``graph``. Returns whether any operation was in-place. Raises
    ModelError where another view of a changed tensor is read later.
    """
    changing = [node for node in graph.nodes if _in_place(model, node)]
    for node in changing:
        changed = node.args[0]
        if isinstance(observed.get(changed), torch.Tensor):  # a number is immutable
            _check_no_alias(node, changed, observed)
            changed.replace_all_uses_with(node, functools.partial(operator.lt, node))
        _make_pure(node)
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return bool(changing)


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.kwargs.get("inplace"):
        return True
    match node.op, node.target:
        case "call_module", str(path):
            return bool(getattr(model.get_submodule(path), "inplace", False))
        case "call_function", function:
            return function in IN_PLACE or _changes_in_place(function)
        case "call_method", str(name):
            return _named_in_place(name)
    return False


def _changes_in_place(function: Any) -> bool:
    return _named_in_place(getattr(function, "__name__", ""))


def _named_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in ("and_", "or_")


def _make_pure(node: fx.Node) -> None:
    """Make ``node`` return a new tensor (a module does so once its flag is cleared)."""
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op == "call_module":
        return
    elif node.target in IN_PLACE:
        node.target = IN_PLACE[node.target]
    elif isinstance(node.target, str) and callable(getattr(torch.Tensor, node.target[:-1], None)):
        node.target = node.target[:-1]
    elif callable(node.target) and hasattr(torch, node.target.__name__[:-1]):
        node.target = getattr(torch, node.target.__name__[:-1])
    else:  # such as exponential_, which has no pure form
        with node.graph.inserting_before(node):
            node.args = (node.graph.call_method("clone", node.args[:1]), *node.args[1:])


def _check_no_alias(operation: fx.Node, changed: fx.Node, observed: dict[fx.Node, Any]) -> None:
    """Raise ModelError if another tensor in the storage of ``changed`` is read after ``operation``."""
    for node in itertools.takewhile(lambda node: node is not operation, observed):
        shares = node is not changed and _storage(observed[node]) == _storage(observed[changed])
        if shares and any(user > operation for user in node.users):
            name = f"{operation.name} changes {node.name}"
            raise ModelError(f"{name} in place through a view; write that operation without in-place")


def _storage(value: Any) -> int | None:
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


def observe(traced: fx.GraphModule, input_shape: tuple[int, int, int], batch: int = 1) -> dict[fx.Node, Any]:
    """The value of each node of ``traced`` for ``batch`` pictures, as meta tensors. Raises ModelError."""
    meta = {name: tensor.detach().to("meta") for name, tensor in [*traced.named_parameters(), *traced.named_buffers()]}
    seen: dict[fx.Node, Any] = {}

    class Observer(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            seen[n] = super().run_node(n)
            return seen[n]

    class Run(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.traced = traced

        def forward(self, x: torch.Tensor) -> Any:
            return Observer(self.traced, garbage_collect_values=False).run(x)

    mode = traced.training
    try:
        with torch.no_grad():
            run = Run().eval()
            renamed = {f"traced.{name}": tensor for name, tensor in meta.items()}
            torch.func.functional_call(run, renamed, (torch.empty(batch, *input_shape, device="meta"),))
    except Exception as error:
        pictures = tuple(input_shape)
        why, _, _ = one_line(error).partition(" While executing ")  # fx appends its own stack
        raise ModelError(f"the model does not take pictures of shape {pictures}: {why}") from error
    finally:
        traced.train(mode)
    return {node: value for node, value in seen.items() if node.op != "output"}
