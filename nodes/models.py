"""How is a network a chain that can be cut anywhere? Layers of its fx graph, boundaries between them, parts.

A layer is one executed tensor operation; assert, shape and scalar nodes belong to the next layer, a direct
parameter to its first user, the members of a tuple to the layer that made it. With ``granularity="module"`` a
layer is the first call of a leaf module with all that follows it up to the next, as papers count that count
modules. Boundary i lies before layer i; what crosses it is the set of tensors that live there, and the few
integers (sizes of the batch) that later layers need.
"""

import functools
import importlib
import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn

from nodes.seeds import derive

Granularity = Literal["op", "module"]
Values = dict[str, Any]  # tensors and integers by the name of the fx node that made them


class ModelError(ValueError):
    """A model that does not exist or cannot be made a chain, or parts that cannot be cut from one."""


class Moment(NamedTuple):
    """When a stochastic layer draws: what its generator's seed is derived from, beside the layer's number."""

    seed: int
    step: int
    microbatch: int = 0


def resolve_callable(name: str) -> Callable[..., Any]:
    """The object that ``module:callable`` names. Raises ModelError."""
    module, _, attribute = name.partition(":")
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"{name}: {error}") from None
    if not callable(found):
        raise ModelError(f"{name} is not callable")
    return found  # type: ignore[no-any-return]


def build_model(name: str, classes: int, input_shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """The network ``name`` (a torchvision classifier, or ``module:callable``) initialised from ``seed``."""
    make = _own(name, classes) if ":" in name else _torchvision(name, classes, input_shape)
    torch.manual_seed(derive(seed))
    try:
        model = make()
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} cannot be made for pictures of {tuple(input_shape)}: {error}") from None
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} made a {type(model).__name__}, not a torch.nn.Module")
    return model


def outline(name: str, classes: int, input_shape: tuple[int, int, int], granularity: Granularity = "op") -> "Chain":
    """The chain of ``name`` for its shapes alone: without memory for parameters where the model permits."""
    try:
        with torch.device("meta"):
            model = build_model(name, classes, input_shape)
    except (NotImplementedError, RuntimeError):  # constructors that compute with tensors' values
        model = build_model(name, classes, input_shape)
    return Chain(model, input_shape, granularity)


def _own(name: str, classes: int) -> Callable[[], nn.Module]:
    """The maker ``module:callable``, told the number of classes if it takes ``classes``."""
    make = resolve_callable(name)
    takes = inspect.signature(make).parameters
    return functools.partial(make, classes=classes) if "classes" in takes else make


def _torchvision(name: str, classes: int, input_shape: tuple[int, int, int]) -> Callable[[], nn.Module]:
    from torchvision import models  # noqa: PLC0415  (seconds; only those who build such a model pay for it)

    if name not in models.list_models(module=models):
        raise ModelError(f"unknown model {name!r}: neither a torchvision classifier nor module:callable")
    settings: dict[str, Any] = {"num_classes": classes}
    if name.startswith("vit_"):
        settings["image_size"] = input_shape[-1]
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    return functools.partial(models.get_model, name, weights=None, **settings)


class Chain:
    """The layers of ``model`` for pictures of ``input_shape`` (C, H, W), and the boundaries between them.

    Clears the in-place flags of ``model``. Raises ModelError for a model that fx cannot trace.
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, int, int], granularity: Granularity = "op"
    ) -> None:
        self.model = model
        graph = _trace(model)
        _clear_in_place(model, graph)
        self._graph = graph
        observed = _observe(fx.GraphModule(model, graph), input_shape)
        self.input_shape = input_shape
        self.input = next(node.name for node in graph.nodes if node.op == "placeholder")
        self.output = next(node for node in graph.nodes if node.op == "output").args[0].name
        layers = _operations(graph, observed)
        if granularity == "module":
            layers = _by_module(layers)
        self._layers = _merge_uncuttable(layers, observed)
        self._layer_of = {node: index for index, layer in enumerate(self._layers) for node in layer}
        self._observed = {node.name: value for node, value in observed.items()}
        self.names = _names(self._layers, observed)

    def __len__(self) -> int:
        return len(self._layers)

    def boundary(self, index: int) -> tuple[str, ...]:
        """Names of the values that cross boundary ``index`` (0 the input, L the result)."""
        if index == 0:
            return (self.input,)
        if index == len(self):
            return (self.output,)
        return tuple(node.name for node in _live(self._graph, self._layer_of, index))

    def shapes(self, index: int) -> Values:
        """The values that cross boundary ``index`` for one picture: meta tensors, and integers."""
        return {name: self._observed[name] for name in self.boundary(index)}

    def part(self, start: int, stop: int) -> "Part":
        """Layers ``start`` to ``stop``. Raises ModelError where a parameter would be on both sides of a cut."""
        if not 0 <= start < stop <= len(self):
            raise ModelError(f"layers {start} to {stop} of {len(self)} are no part")
        self._check_not_shared(start, stop)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        by_name = {node.name: node for node in self._graph.nodes}
        for name in self.boundary(start):
            copies[by_name[name]] = graph.placeholder(name)
        seeds = {}
        for index in range(start, stop):
            for node in self._layers[index]:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if self._stochastic(node):
                    seeds[copies[node].name] = index
        outputs = self.boundary(stop)
        graph.output(tuple(copies[by_name[name]] for name in outputs))
        return Part(fx.GraphModule(self.model, graph), self.boundary(start), outputs, seeds)

    def _check_not_shared(self, start: int, stop: int) -> None:
        inside, outside = set(), set()
        for node, layer in self._layer_of.items():
            if node.op == "call_module":
                owned = {id(p) for p in self.model.get_submodule(str(node.target)).parameters()}
                (inside if start <= layer < stop else outside).update(owned)
        if inside & outside:
            raise ModelError(f"layers {start} to {stop} share parameters with others and cannot be cut from them")

    def _stochastic(self, node: fx.Node) -> bool:
        """Whether ``node`` may draw random numbers in training: anything not known to be deterministic."""
        if node.op == "call_module":
            return any(_draws(module) for module in self.model.get_submodule(str(node.target)).modules())
        name = str(getattr(node.target, "__name__", node.target))
        return any(word in name for word in ("drop", "rand", "bernoulli", "attention", "noise", "stochastic"))


class Part(nn.Module):
    """Consecutive layers of a chain: values at its first boundary in, values at its last out.

    Parameters keep their names in the whole model. In training each stochastic layer draws from a generator
    seeded by (seed, step, microbatch, layer), so that where the model is cut cannot change what is drawn.
    """

    def __init__(
        self, body: fx.GraphModule, inputs: tuple[str, ...], outputs: tuple[str, ...], seeds: dict[str, int]
    ) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs
        self.outputs = outputs
        self._seeds = seeds

    def forward(self, values: Values, moment: Moment | None = None) -> Values:
        """Run the layers on ``values``; stochastic ones need the ``moment`` in training."""
        if self.training and self._seeds and moment is not None:
            run = _Seeded(self.body, self._seeds, moment)
        else:
            run = fx.Interpreter(self.body)
        results = run.run(*(values[name] for name in self.inputs), enable_io_processing=False)
        return dict(zip(self.outputs, results, strict=True))


class _Seeded(fx.Interpreter):
    """Seeds the generator before each stochastic layer."""

    def __init__(self, body: fx.GraphModule, seeds: dict[str, int], moment: Moment) -> None:
        super().__init__(body)
        self._seeds, self._moment = seeds, moment

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._seeds:
            torch.manual_seed(layer_seed(self._moment, self._seeds[n.name]))
        return super().run_node(n)


def layer_seed(moment: Moment, layer: int) -> int:
    """The seed from which layer number ``layer`` draws at ``moment``."""
    return derive(moment.seed, moment.step, moment.microbatch, layer)


def _draws(module: nn.Module) -> bool:
    known = type(module).__module__.startswith("torch.nn.modules")
    return not known or isinstance(module, (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RReLU))


class _Tracer(fx.Tracer):
    """Traces into a model's own modules, but not into those named leaves."""

    def __init__(self, leaves: set[str]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._leaves or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.Graph:
    """The graph of ``model``, the same in training and evaluation: what differs stays a module."""
    leaves: set[str] = set()
    mode = model.training
    try:
        while True:
            train, evaluate = (_Tracer(leaves).trace(model.train(flag)) for flag in (True, False))
            module = _difference(train, evaluate)
            if module is None:
                return train
            if module in leaves | {""}:
                raise ModelError("the model does something else in training than in evaluation, outside a module")
            leaves.add(module)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ModelError(f"the model cannot be traced: {error}") from None
    finally:
        model.train(mode)


def _difference(one: fx.Graph, other: fx.Graph) -> str | None:
    """The innermost module in which two graphs first differ; "" is the model itself, None: nowhere."""
    if len(one.nodes) == len(other.nodes) and str(one) == str(other):
        return None
    for first, second in zip(one.nodes, other.nodes, strict=False):
        if first.format_node() != second.format_node():
            stack = first.meta.get("nn_module_stack") or {}
            return next(reversed([path for path, _ in stack.values()]), "")
    return ""


def _clear_in_place(model: nn.Module, graph: fx.Graph) -> None:
    """Make every operation return a new tensor; what came after an in-place one reads its result."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    for node in list(graph.nodes):
        if _without_in_place(node) and node.args and isinstance(node.args[0], fx.Node):
            node.args[0].replace_all_uses_with(node, lambda user, changed=node: user > changed)


def _without_in_place(node: fx.Node) -> bool:
    """Turn an in-place node into its pure form; True if it was one."""
    if node.op == "call_function" and callable(node.target):
        name = getattr(node.target, "__name__", "")
        if getattr(operator, name, None) is node.target and name[0] == "i" and hasattr(operator, name[1:]):
            node.target = getattr(operator, name[1:])
            return True
        if "inplace" in node.kwargs:
            was = bool(node.kwargs["inplace"])
            node.kwargs = {**node.kwargs, "inplace": False}
            return was
    if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
        pure = str(node.target)[:-1]
        if not hasattr(torch.Tensor, pure):
            raise ModelError(f"in-place method {node.target} has no form that returns a new tensor")
        node.target = pure
        return True
    return False


def _observe(traced: fx.GraphModule, input_shape: tuple[int, int, int], batch: int = 1) -> dict[fx.Node, Any]:
    """What each node of ``traced`` yields for one picture, on meta tensors: shapes and kinds, no data."""
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len([node for node in placeholders if not node.args]) != 1:
        raise ModelError("the model must take one input")
    meta = {
        name: tensor.detach().to("meta")
        for name, tensor in [*traced.named_parameters(), *traced.named_buffers()]
    }
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
        raise ModelError(f"the model does not take pictures of shape {tuple(input_shape)}: {error}") from None
    finally:
        traced.train(mode)
    return {node: value for node, value in seen.items() if node.op != "output"}


def _operations(graph: fx.Graph, observed: dict[fx.Node, Any]) -> list[list[fx.Node]]:
    """Nodes grouped so that each group holds one tensor operation."""
    layers: list[list[fx.Node]] = []
    pending: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        if node.target is operator.getitem and layers and node.args[0] is _maker(layers[-1], observed):
            layers[-1].append(node)
        elif _has_tensor(observed[node]):
            layers.append([*pending, node])
            pending = []
        else:
            pending.append(node)
    if not layers:
        raise ModelError("the model executes no tensor operation")
    layers[-1] += pending
    return _with_attributes(graph, layers)


def _maker(layer: list[fx.Node], observed: dict[fx.Node, Any]) -> fx.Node | None:
    """The node of ``layer`` that made a tuple, if one did."""
    return next((node for node in layer if isinstance(observed[node], (tuple, list))), None)


def _with_attributes(graph: fx.Graph, layers: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """Put each directly used parameter in front of the layer of its first user."""
    layer_of = {node: index for index, layer in enumerate(layers) for node in layer}
    for node in graph.nodes:
        if node.op == "get_attr":
            users = [layer_of[user] for user in node.users if user in layer_of]
            layers[min(users, default=0)].insert(0, node)
    return layers


def _by_module(layers: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """Join layers so that each begins with the first call of a leaf module."""
    joined: list[list[fx.Node]] = []
    seen: set[str] = set()
    opened = False  # whether the group that is being made has its module yet
    for layer in layers:
        called = {str(node.target) for node in layer if node.op == "call_module"} - seen
        seen |= called
        if not joined or (called and opened):
            joined.append([])
            opened = False
        joined[-1] += layer
        opened = opened or bool(called)
    return joined


def _merge_uncuttable(layers: list[list[fx.Node]], observed: dict[fx.Node, Any]) -> list[list[fx.Node]]:
    """Join layers between which something lives that is neither a tensor nor an integer."""
    layer_of = {node: index for index, layer in enumerate(layers) for node in layer}
    graph = layers[0][-1].graph
    merged = [list(layers[0])]
    for index in range(1, len(layers)):
        cuttable = all(
            isinstance(observed[node], (torch.Tensor, int)) for node in _live(graph, layer_of, index)
        )
        if cuttable:
            merged.append(list(layers[index]))
        else:
            merged[-1] += layers[index]
    return merged


def _live(graph: fx.Graph, layer_of: dict[fx.Node, int], index: int) -> list[fx.Node]:
    """Nodes made before layer ``index`` (the input is made before all) and used in it or later."""
    end = len(layer_of)
    return [
        node
        for node in graph.nodes
        if layer_of.get(node, -1) < index
        and node.op != "output"
        and any(layer_of.get(user, end) >= index for user in node.users)
    ]


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_tensor(item) for item in value)
    return isinstance(value, torch.Tensor)


def _names(layers: Iterable[list[fx.Node]], observed: dict[fx.Node, Any]) -> list[str]:
    """A name a layer: its module's path, else its node's; a number behind it where it comes again."""
    names: list[str] = []
    for layer in layers:
        operation = next(node for node in layer if node.op != "get_attr" and _has_tensor(observed[node]))
        name = str(operation.target) if operation.op == "call_module" else operation.name
        again = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{again + 1}" if again else name)
    return names
