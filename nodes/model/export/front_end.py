"""Second front end: ``torch.export``, for models that ``nodes.model.tracing`` refuses.

``torch.export`` runs a model on tensors without data, for any number of samples. What it records becomes the same kind
of graph as a trace: leaf modules stay calls of the user's own modules, so their modes, buffers and hooks work as ever,
and only what a model computes between them becomes operations of its own.
"""

import logging
import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import fx, library, nn
from torch.utils import _pytree as pytree

from nodes.errors import ModelError, one_line
from nodes.model.export.in_place import changed, pure_graph
from nodes.model.tracing.copies import ModelCopy, registered
from nodes.model.tracing.leaves import is_leaf
from nodes.model.tracing.trace import WAY_OUT, Kept, Network, Pass, as_network, unify
from nodes.model.tracing.tree import HERE, map_tree
from nodes.model.tracing.values import UnseenError, user_line

SAMPLES = 2  # of the example; export takes 0 and 1 for constants
ALIASES = (nn.Identity, nn.Flatten, nn.Unflatten)  # leaves that return their input or a view of it are recorded
REASON_CHARACTERS = 80
CONSTANT = "_exported_constant"
NOISE = [  # loggers that print graphs and tracebacks of what cannot be exported
    logging.getLogger(f"torch.{name}") for name in ("fx.experimental.symbolic_shapes", "_subclasses.fake_tensor")
]
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class _KeepWholeError(Exception):
    """The module at ``path`` does what an exported graph does not show, so that it must stay one layer."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'the model'} {reason}")
        self.path, self.reason = path, reason


class _Call(NamedTuple):
    """A call of a leaf module: where it is, its arguments, and its result once it has run."""

    path: str
    arguments: tuple[list[Any], pytree.TreeSpec]
    run: Callable[..., Any]
    result: list[Any]


_calls: list[_Call] = []  # of the export in progress
_inside: list[str] = []  # paths of the leaf modules that run


@library.custom_op("splitmec::leaf", mutates_args=())
def _leaf(call: int, tensors: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    """Stands for a call of a leaf module while its model is exported."""
    raise RuntimeError("leaf calls exist in exported graphs alone")


LEAF = torch.ops.splitmec.leaf.default


@_leaf.register_fake
def _(call: int, tensors: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    args, kwargs = _filled(_calls[call].arguments, tensors, sizes)
    result = _calls[call].run(*args, **kwargs)
    _calls[call].result[:] = [result]
    made = _of_kind(torch.Tensor, pytree.tree_leaves(result))
    return [torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device) for each in made]


def _of_kind(kind: type, leaves: list[Any]) -> list[Any]:
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def _filled(tree: tuple[list[Any], pytree.TreeSpec], tensors: Any, sizes: Any = ()) -> Any:
    """``tree`` with ``tensors`` and ``sizes`` for its tensors and symbolic sizes, in order."""
    leaves, spec = tree
    fill = {torch.Tensor: iter(tensors), torch.SymInt: iter(sizes)}
    for kind, given in fill.items():
        leaves = [next(given) if isinstance(leaf, kind) else leaf for leaf in leaves]
    return pytree.tree_unflatten(leaves, spec)


@contextmanager
def _recorded(path: str, module: nn.Module) -> Iterator[None]:
    """Let ``module`` record its calls, its hooks inside of them."""
    own = {name: vars(module)[name] for name in ("forward", *HOOKS) if name in vars(module)}

    def set_up() -> None:
        vars(module).update({name: OrderedDict() for name in HOOKS}, forward=record)

    def restore() -> None:
        vars(module).pop("forward", None)
        vars(module).update(own)

    def run(*args: Any, **kwargs: Any) -> Any:
        restore()
        _inside.append(path)
        try:
            return module(*args, **kwargs)
        finally:
            _inside.pop()
            set_up()

    def record(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        call = _Call(path, (leaves, spec), run, [])
        _calls.append(call)
        made = _leaf(len(_calls) - 1, _of_kind(torch.Tensor, leaves), _of_kind(torch.SymInt, leaves))
        result = _filled(pytree.tree_flatten(call.result[0]), made)
        in_place = getattr(module, "inplace", False) and not list(module.children())  # a layer makes a new tensor
        return args[0].copy_(result) if in_place else result

    set_up()
    try:
        yield
    finally:
        restore()


def export(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Network:
    """The graph of ``model``, which stays as it is, for both modes, as ``nodes.model.tracing.trace`` makes it.

    Args:
        model: The model.
        input_shape: Of a sample.
        dtype: Of the input.

    Raises:
        ModelError: The model cannot be exported.
    """
    kept: dict[str, Kept] = {}
    while True:
        try:
            train, evaluate = (_pass(model, input_shape, dtype, kept, training) for training in (True, False))
        except _KeepWholeError as error:
            if not error.path:
                why = f"the model's own forward {error.reason}; move that part into a module of its own"
                raise ModelError(why) from error
            found = {error.path: Kept(error.path, f"it {error.reason}")}
        else:
            _observe(model, evaluate, torch.empty(1, *input_shape, dtype=dtype, device="meta"))
            try:
                found = unify(train, evaluate, kept)
            except UnseenError as error:
                raise ModelError(f"{error} ({error.where}); {WAY_OUT}") from error
            if not found:
                return as_network(train, evaluate, tuple(kept.values()))
        kept |= found


def _pass(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype, kept: dict[str, Kept], training: bool
) -> Pass:
    blank = ModelCopy(model).model.to_empty(device="cpu").train(training)  # export never reads its data
    example = torch.zeros(SAMPLES, *input_shape, dtype=dtype)
    flags: dict[str, bool] = {}
    try:
        program = _exported(blank, example, set(kept), flags)
        if (kind := program.call_spec.out_spec.type) is not None:
            raise ModelError(f"the model returns a {kind.__name__}; expected one tensor")
        return _Converted(program, flags).result
    finally:
        _calls.clear()


def _exported(
    model: nn.Module, example: torch.Tensor, kept: set[str], flags: dict[str, bool]
) -> torch.export.ExportedProgram:
    batch = ({0: torch.export.Dim("batch")},)
    found: list[_KeepWholeError] = []
    try:
        with ExitStack() as stack:
            for noise in NOISE:
                stack.callback(noise.setLevel, noise.level)
                noise.setLevel(logging.CRITICAL)
            for path, module in _leaf_modules(model, kept):
                stack.enter_context(_recorded(path, module))
                inner = module.named_modules(prefix=path)
                flags.update((name, one.training) for name, one in inner)
            stack.enter_context(_watched(model, found))
            return torch.export.export(model, (example,), dynamic_shapes=batch, strict=False)
    except Exception as error:  # a user's model may fail in any way
        if found:
            raise found[0] from error
        raise ModelError(f"the model cannot be exported: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The beginning of what export says, which takes pages, and the last line of the model's own code."""
    said = one_line(error)
    short = said if len(said) <= REASON_CHARACTERS else f"{said[:REASON_CHARACTERS]}..."
    where = user_line(error)
    return f"{short} ({where})" if where else short


@contextmanager
def _watched(model: nn.Module, found: list[_KeepWholeError]) -> Iterator[None]:
    """Stop the export at a function with a gradient of its own, which export would replace by the usual one."""
    paths = {id(module): path for path, module in model.named_modules()}
    apply = vars(torch.autograd.Function)["apply"]

    def watched(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside:
            return apply.__get__(None, cls)(*args, **kwargs)
        found.append(_KeepWholeError(_running(paths), f"has a gradient of its own ({cls.__name__})"))
        raise found[0]

    torch.autograd.Function.apply = classmethod(watched)
    try:
        yield
    finally:
        torch.autograd.Function.apply = apply


def _running(paths: dict[int, str]) -> str:
    """The path of the innermost module that runs now."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if (path := paths.get(id(frame.f_locals.get("self")))) is not None:
            return path
        frame = frame.f_back
    return ""


def _leaf_modules(model: nn.Module, kept: set[str]) -> Iterator[tuple[str, nn.Module]]:
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path and not path.startswith(inside) and (path in kept or is_leaf(module)):
            inside = (*inside, f"{path}.")
            if not isinstance(module, ALIASES):
                yield path, module


class _Converted:
    """An exported program as a graph over the model's own modules, parameters and buffers."""

    def __init__(self, program: torch.export.ExportedProgram, flags: dict[str, bool]) -> None:
        self._graph = fx.Graph()
        self._made: dict[fx.Node, fx.Node] = {}
        self._written: set[str] = set()
        signature = program.graph_signature
        lifted = signature.inputs_to_lifted_tensor_constants
        constants = {f"{CONSTANT}{number}": program.constants[kept] for number, kept in enumerate(lifted.values())}
        self._state = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **dict(zip(lifted, constants, strict=True)),
        }
        state = {node for node in program.graph.nodes if node.op == "placeholder" and node.name in self._state}
        for node in pure_graph(program.graph, state).nodes:
            self._convert(node)
        self._join()
        output = next(reversed(self._graph.nodes)).all_input_nodes[0]
        self.result = Pass(self._graph, output, constants, flags)

    def _convert(self, node: fx.Node) -> None:
        given: Any = node.args
        self._meta = {"owner": _owner(node)}  # of all that is made for the node
        self._written |= {self._state[node.meta["writes"]]} if "writes" in node.meta else set()
        match node.op, node.target:
            case "placeholder", _ if node.name in self._state:
                return  # a reader takes it where it reads, so that it crosses no cut
            case "call_function", operator.getitem if given[0].target is LEAF:
                call, made = _calls[given[0].args[0]], self._made[given[0]]
                self._made[node] = self._member(made, call.result[0], given[1])
            case "call_function", function if function is LEAF:
                call, (tensors, sizes) = _calls[given[0]], self._present(given[1:])
                args, kwargs = _filled(call.arguments, tensors, sizes)
                self._made[node] = self._created(node, "call_module", call.path, args, kwargs)
            case "output", _:
                self._output(given[0])
            case "get_attr", _:
                raise _KeepWholeError(_owner(node), "sets the gradient or autocast mode")
            case _:
                self._copy(node)

    def _copy(self, node: fx.Node) -> None:
        args, kwargs = self._present(map_tree(_anywhere, (node.args, node.kwargs)))
        self._made[node] = self._created(node, node.op, node.target, args, kwargs)

    def _created(self, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        called = node.args[2] if node.target is changed else node.target
        name = called._opname if op == "call_function" and isinstance(called, torch._ops.OpOverload) else None
        made = self._graph.create_node(op, target, args, kwargs, name=name)
        made.meta = {**self._meta, "called": (name or "").rstrip("_")}
        return made

    def _join(self) -> None:
        """Keep all that uses a tensor of the model which the forward pass writes in one layer."""
        nodes = list(self._graph.nodes)
        for path in self._written:
            places = [place for place, node in enumerate(nodes) if self._uses(node, path)]
            for node in nodes[places[0] : places[-1]]:
                node.meta["joined"] = True

    def _uses(self, node: fx.Node, path: str) -> bool:
        return any(given.op == "get_attr" and given.target == path for given in node.all_input_nodes)

    def _present(self, arguments: Any) -> Any:
        return fx.map_arg(arguments, self._value)

    def _value(self, node: fx.Node) -> fx.Node:
        return self._attribute(self._state[node.name]) if node.name in self._state else self._made[node]

    def _attribute(self, path: str) -> fx.Node:
        made = self._graph.create_node("get_attr", path)
        made.meta = dict(self._meta)
        return made

    def _member(self, made: fx.Node, result: Any, number: int) -> fx.Node:
        """Tensor ``number`` of ``result``, which a leaf module returned."""
        leaves, _ = pytree.tree_flatten_with_path(result)
        path, _ = [leaf for leaf in leaves if isinstance(leaf[1], torch.Tensor)][number]
        for key in path:
            match key:
                case pytree.SequenceKey(place) | pytree.MappingKey(place):
                    made = self._graph.call_function(operator.getitem, (made, place))
                case pytree.GetAttrKey(name):
                    made = self._graph.call_function(getattr, (made, name))
            made.meta = dict(self._meta)
        return made

    def _output(self, returned: tuple[Any, ...]) -> None:
        results = [result for result in returned if isinstance(result, fx.Node)]
        if len(results) != 1:
            raise ModelError(f"the model returns {len(results)} tensors; expected one")
        self._graph.output(self._value(results[0]))


def _anywhere(leaf: Any) -> Any:
    """``leaf``, or the device of the run for the one of the export."""
    return HERE if isinstance(leaf, torch.device) else leaf


def _owner(node: fx.Node) -> str:
    """The path of the innermost module around ``node`` that is no leaf."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty")] or [""]
    if node.target is LEAF or (node.target is operator.getitem and node.all_input_nodes[0].target is LEAF):
        return paths[-2] if len(paths) > 1 else ""
    return paths[-1]


def _observe(model: nn.Module, evaluate: Pass, sample: torch.Tensor) -> None:
    """Note the value of each node of ``evaluate`` for ``sample``, a meta tensor as they all are. Raises ModelError."""
    blank = ModelCopy(model).model.eval()
    tensors = dict(registered(blank)) | {name: tensor.to("meta") for name, tensor in evaluate.constants.items()}

    def argument(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return leaf.meta["value"]
        return sample.device if leaf is HERE else leaf

    with torch.no_grad():
        for node in evaluate.graph.nodes:
            args, kwargs = map_tree(argument, (node.args, node.kwargs))
            match node.op:
                case "placeholder":
                    node.meta["value"] = sample
                case "get_attr":
                    node.meta["value"] = tensors[str(node.target)]
                case "call_module":
                    node.meta["value"] = blank.get_submodule(str(node.target))(*args, **kwargs)
                case "call_function":
                    node.meta["value"] = node.target(*args, **kwargs)
