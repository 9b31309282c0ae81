"""Chain of the layers of a network's fx graph, which can be cut at any boundary into parts.

A layer is one executed tensor operation. Assert, shape and scalar nodes belong to the next layer, a direct
parameter to its first user, the members of a tuple to the layer that made it. With ``granularity="module"`` a
layer is the first call of a leaf module with everything up to the next one, as papers count modules. Boundary i
lies before layer i. The tensors that are live there cross it, and the scalars (such as the batch size) that
later layers need.
"""

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from nodes.errors import ModelError
from nodes.model.tracing import clear_in_place, input_and_output, observe, trace
from nodes.seeds import derive, seed_generators
from nodes.spec.job import Granularity

Values = dict[str, Any]  # tensors and scalars by the name of the fx node that made them


class Moment(NamedTuple):
    """The point in training from which, with the layer's number, the seed of a stochastic layer is derived."""

    seed: int
    step: int
    microbatch: int = 0


class Chain:
    """The L layers of a model and the boundaries between them. Clears the in-place flags of the model.

    Args:
        model: A module that takes pictures (N, C, H, W) and returns one tensor.
        input_shape: (C, H, W) of a picture.
        granularity: "op" for one executed tensor operation a layer, "module" for one leaf module.

    Raises:
        ModelError: fx cannot trace the model, or the model does not take such pictures.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int], granularity: Granularity = "op") -> None:
        self.model = model
        graph = trace(model)
        self._graph = graph
        self.input_shape = input_shape
        self.input, self.output = input_and_output(graph)
        observed = observe(fx.GraphModule(model, graph), input_shape)
        if clear_in_place(model, graph, observed):
            observed = observe(fx.GraphModule(model, graph), input_shape)
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
        """Names of the values that cross boundary ``index``: 0 is the input, L the result."""
        if index == 0:
            return (self.input,)
        if index == len(self):
            return (self.output,)
        return tuple(node.name for node in _live(self._graph, self._layer_of, index))

    def shapes(self, index: int) -> Values:
        """The values that cross boundary ``index`` for one picture: meta tensors, and scalars."""
        return {name: self._observed[name] for name in self.boundary(index)}

    def part(self, start: int, stop: int) -> "Part":
        """Layers ``start`` to ``stop`` - 1. Raises ModelError if a parameter trains on both sides of a cut."""
        self.check_part(start, stop)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        by_name = {node.name: node for node in self._graph.nodes}
        for name in self.boundary(start):
            copies[by_name[name]] = graph.placeholder(name)
        begins = {}
        for index in range(start, stop):
            for node in self._layers[index]:
                copies[node] = graph.node_copy(node, copies.__getitem__)
            begins[copies[self._layers[index][0]].name] = index
        outputs = self.boundary(stop)
        graph.output(tuple(copies[by_name[name]] for name in outputs))
        return Part(fx.GraphModule(self.model, graph), self.boundary(start), outputs, begins)

    def check_part(self, start: int, stop: int) -> None:
        """Raise ModelError unless ``part`` can cut out layers ``start`` to ``stop`` - 1."""
        if not 0 <= start < stop <= len(self):
            raise ModelError(f"no part from boundary {start} to {stop}: expected 0 <= start < stop <= {len(self)}")
        inside: set[int] = set()
        outside: set[int] = set()
        for node, layer in self._layer_of.items():
            (inside if start <= layer < stop else outside).update(map(id, _owned(self.model, node)))
        if inside & outside:
            raise ModelError(f"layers {start} to {stop} share trained parameters with other layers; choose another cut")


class Part(nn.Module):
    """Consecutive layers of a chain, from the values at its first boundary to those at its last.

    Parameters keep their names in the whole model. In training every layer draws from generators seeded by
    (seed, step, microbatch, layer), so the draws do not depend on where the model is cut.
    """

    def __init__(
        self, body: fx.GraphModule, inputs: tuple[str, ...], outputs: tuple[str, ...], begins: dict[str, int]
    ) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs
        self.outputs = outputs
        self._begins = begins  # layer number by the name of its first node

    def forward(self, values: Values, moment: Moment | None = None) -> Values:
        """Run the layers on ``values``. In training ``moment`` seeds each layer's draws; None leaves the generators."""
        run = _Run(self.body, self._begins, moment if self.training else None)
        results = run.run(*(values[name] for name in self.inputs), enable_io_processing=False)
        return dict(zip(self.outputs, results, strict=True))


class _Run(fx.Interpreter):
    """Seeds the generators before every layer, whether it draws or not."""

    def __init__(self, body: fx.GraphModule, begins: dict[str, int], moment: Moment | None) -> None:
        super().__init__(body)
        self._begins, self._moment = begins, moment

    def run_node(self, n: fx.Node) -> Any:
        if self._moment is not None and n.name in self._begins:
            seed_generators(layer_seed(self._moment, self._begins[n.name]))
        return super().run_node(n)


def layer_seed(moment: Moment, layer: int) -> int:
    """Seed of the draws of layer number ``layer`` at ``moment``."""
    return derive(moment.seed, moment.step, moment.microbatch, layer)


def _owned(model: nn.Module, node: fx.Node) -> list[nn.Parameter]:
    """Trained parameters of ``model`` that ``node`` uses. Copies of frozen ones stay equal, so they may be shared."""
    used: list[nn.Parameter] = []
    if node.op == "call_module":
        used = list(model.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        attribute = operator.attrgetter(str(node.target))(model)
        used = [attribute] if isinstance(attribute, nn.Parameter) else []
    return [parameter for parameter in used if parameter.requires_grad]


def _operations(graph: fx.Graph, observed: dict[fx.Node, Any]) -> list[list[fx.Node]]:
    """Nodes grouped so that each group holds one tensor operation."""
    layers: list[list[fx.Node]] = []
    pending: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        if _member_of_last(node, layers, observed) and not pending:
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


def _member_of_last(node: fx.Node, layers: list[list[fx.Node]], observed: dict[fx.Node, Any]) -> bool:
    """Whether ``node`` takes a member of the tuple of tensors that the last layer made."""
    if node.target is not operator.getitem or not layers:
        return False
    made = [observed[maker] for maker in layers[-1] if maker is node.args[0]]
    return any(isinstance(value, (tuple, list)) and _has_tensor(value) for value in made)


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
    opened = False  # whether the current group has its module
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
    """Join layers across a boundary where a value is neither tensor nor scalar."""
    layer_of = {node: index for index, layer in enumerate(layers) for node in layer}
    graph = layers[0][-1].graph
    merged = [list(layers[0])]
    for index in range(1, len(layers)):
        if all(isinstance(observed[node], (torch.Tensor, int, float)) for node in _live(graph, layer_of, index)):
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
    """Names of the layers: the module's path, else the node's name, with #2, #3, ... where it repeats."""
    names: list[str] = []
    for layer in layers:
        operation = next(node for node in layer if node.op != "get_attr" and _has_tensor(observed[node]))
        name = str(operation.target) if operation.op == "call_module" else operation.name
        again = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{again + 1}" if again else name)
    return names
