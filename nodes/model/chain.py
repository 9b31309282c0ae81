"""Chain of the layers of a network's fx graph, which can be cut at any boundary into parts.

A layer is one executed tensor operation. Assert, shape and scalar nodes belong to the next layer, a direct
parameter to its first user, the members of a tuple to the layer that made it. With ``granularity="module"`` a
layer is the first call of a leaf module with everything up to the next one, as papers count modules. Boundary i
lies before layer i. The tensors that are live there cross it, and the scalars (such as the batch size) that
later layers need.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from nodes.errors import ModelError
from nodes.model.fidelity import FLOPS, check_fidelity, flops_of
from nodes.model.part import Body, Moment, Part, PlainPart, Values, layer_seed
from nodes.model.tracing import Network, check_openable, trace
from nodes.model.tracing.copies import registered, with_data
from nodes.model.tracing.values import UnseenError
from nodes.spec.job import Granularity, InputType

__all__ = ["Chain", "Moment", "Part", "Values", "layer_seed"]


class Chain:
    """The L layers of a model and the boundaries between them.

    ``kept`` lists the modules that are one layer because they cannot be traced, with the reason. A model with data is
    held against its layers (``nodes.model.fidelity``) unless it is large; ``compare`` does so for any.

    Args:
        model: A module that takes pictures (N, C, H, W), or tokens (N, T), and returns one tensor. A module in it
            with ``whole = True`` is one layer.
        input_shape: (C, H, W) of a picture, or (T,) of a sequence.
        granularity: "op" for one executed tensor operation a layer, "module" for one leaf module.
        dtype: Of the input: float32 for pictures, int64 for tokens.

    Raises:
        ModelError: The model cannot be traced, does not take such pictures, or its layers compute something else.
    """

    compared = True  # whether the model runs, to be held against its layers

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        granularity: Granularity = "op",
        dtype: InputType = "float32",
    ) -> None:
        self.model = _uncompiled(model)
        network = _open(self.model, input_shape, getattr(torch, dtype))
        self.kept = network.kept
        self._network, self._graph = network, network.graph
        self.input_shape = input_shape
        self._sample = torch.empty(input_shape, dtype=getattr(torch, dtype), device="meta")
        self.input, self.output = network.input, network.output
        observed = {node: node.meta["value"] for node in network.graph.nodes if node.op != "output"}
        layers = _operations(network.graph, observed)
        if granularity == "module":
            layers = _by_module(layers)
        self._layers = _late_numbers(_merge_uncuttable(layers, observed), observed)
        self._layer_of = {node: index for index, layer in enumerate(self._layers) for node in layer}
        self._observed = {node.name: value for node, value in observed.items()}
        self.names = _names(self._layers, observed)
        if self.compared:
            check_fidelity(self.model, lambda model: self._part_of(model, 0, len(self)), self._sample, always=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        return self._sample.dtype

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
        return self._part_of(self.model, start, stop)

    def plain(self) -> PlainPart:
        """All layers at once, as the model's own code in plain PyTorch, which draws what ``part(0, L)`` draws."""
        copied = with_data(self.model, next((t.device for _, t in registered(self.model)), torch.device("cpu")))
        return PlainPart(self.model, self._part_of(copied, 0, len(self)), self._sample)

    def compare(self) -> None:
        """Hold the layers against the model, however large it is. Raises ModelError if they differ."""
        check_fidelity(self.model, lambda model: self._part_of(model, 0, len(self)), self._sample, always=True)

    @property
    def flops(self) -> int:
        """Operations of the forward pass of one input; 0 where they cannot be counted."""
        return flops_of(self._part_of(self.model, 0, len(self)), self._sample)

    @property
    def cheap(self) -> bool:
        """Whether a model with data is small enough to be compared with its layers when its chain is built."""
        return self.flops <= FLOPS

    @property
    def vocabulary(self) -> tuple[str, int] | None:
        """Name and size of the smallest embedding that takes the input's tokens as they are; None if there is none."""
        given = next(node for node in self._graph.nodes if node.op == "placeholder")
        found = []
        for node in given.users:
            module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and node.args[:1] == (given,):
                found.append((str(node.target), module.num_embeddings))
        return min(found, key=operator.itemgetter(1), default=None)

    def _part_of(self, model: nn.Module, start: int, stop: int) -> "Part":
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
        return Part(Body(model, graph, self._network), self.boundary(start), outputs, begins)

    def check_part(self, start: int, stop: int) -> None:
        """Raise ModelError unless ``part`` can cut out layers ``start`` to ``stop`` - 1."""
        if not 0 <= start < stop <= len(self):
            raise ModelError(f"no part from boundary {start} to {stop}: expected 0 <= start < stop <= {len(self)}")
        inside: set[int] = set()
        outside: set[int] = set()
        for node, layer in self._layer_of.items():
            (inside if start <= layer < stop else outside).update(map(id, self._owned(node)))
        if inside & outside:
            raise ModelError(f"layers {start} to {stop} share trained parameters with other layers; choose another cut")

    def _owned(self, node: fx.Node) -> list[nn.Parameter]:
        """Trained parameters that ``node`` uses. Copies of frozen ones stay equal, so they may be shared."""
        used: list[Any] = []
        if node.op == "call_module":
            used = list(self.model.get_submodule(str(node.target)).parameters())
        elif node.op == "get_attr" and node.target not in self._network.constants:
            used = [operator.attrgetter(str(node.target))(self.model)]
        return [parameter for parameter in used if isinstance(parameter, nn.Parameter) and parameter.requires_grad]


def _open(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> Network:
    check_openable(model)
    try:
        return trace(model, input_shape, dtype)
    except ModelError as refused:
        if isinstance(refused.__cause__, UnseenError):
            raise
        from nodes.model.export import export  # noqa: PLC0415  (takes seconds)

        try:
            return export(model, input_shape, dtype)
        except Exception:  # the exporter, or a model in it, may fail in any way
            raise refused from None


def _uncompiled(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was given."""
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


def _operations(graph: fx.Graph, observed: dict[fx.Node, Any]) -> list[list[fx.Node]]:
    """Nodes grouped so that each group holds one tensor operation."""
    layers: list[list[fx.Node]] = []
    pending: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        if _member_of_last(node, layers, observed) and not pending:
            layers[-1].append(node)
        elif _has_tensor(observed[node]) and not node.meta.get("joined"):
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
        called = {_name(node) for node in layer if _is_module(node)} - seen
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


def _late_numbers(layers: list[list[fx.Node]], observed: dict[fx.Node, Any]) -> list[list[fx.Node]]:
    """Move numbers that are read off a tensor after its last other use to that use, so that they cross in its place."""
    layer_of = {node: index for index, layer in enumerate(layers) for node in layer}
    for index, layer in enumerate(layers):
        for node in [node for node in layer if isinstance(observed[node], (int, float))]:
            read = [given for given in node.all_input_nodes if isinstance(observed[given], torch.Tensor)]
            users = [user for given in read for user in given.users if _has_tensor(observed.get(user))]
            needed = [layer_of.get(one, 0) for one in (*read, *users)]
            if read and max(needed) < index:
                layer.remove(node)
                layers[max(needed)].append(node)
    return layers


def _is_operation(node: fx.Node, value: Any) -> bool:
    return node.op != "get_attr" and _has_tensor(value) and not node.meta.get("joined")


def _is_module(node: fx.Node) -> bool:
    """Whether ``node`` calls a module, or a function that follows the mode as a module does."""
    return node.op == "call_module" or "evaluate" in node.meta


def _name(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return f"_by_mode_{node.name}" if "evaluate" in node.meta else node.name


def _names(layers: Iterable[list[fx.Node]], observed: dict[fx.Node, Any]) -> list[str]:
    """Names of the layers: the module's path, else the node's name, with #2, #3, ... where it repeats."""
    names: list[str] = []
    for layer in layers:
        name = _name(next(node for node in layer if _is_operation(node, observed[node])))
        again = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{again + 1}" if again else name)
    return names
