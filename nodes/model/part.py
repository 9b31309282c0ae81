"""Parts of a chain: consecutive layers that run on the values of a boundary."""

import copy
import operator
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from nodes.model.tracing import Network
from nodes.model.tracing.modes import AMBIENT, ModeKeeper
from nodes.model.tracing.patches import Draws, generators_kept
from nodes.model.tracing.tree import HERE, any_leaf, map_tree
from nodes.seeds import derive, seed_generators

# What draws nothing, whatever its arguments.
STEADY_MODULES = {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten}
STEADY_FUNCTIONS: set[Any] = {torch.relu, torch.add, torch.flatten, nn.functional.relu, operator.add}
Values = dict[str, Any]  # tensors and scalars by the name of the fx node that made them


class Moment(NamedTuple):
    """The point in training from which, with the layer's number, the seed of a stochastic layer is derived."""

    seed: int
    step: int
    microbatch: int = 0


class Body(nn.Module):
    """The modules and tensors of ``model`` that ``graph`` uses, by their paths in the model."""

    def __init__(self, model: nn.Module, graph: fx.Graph, network: Network) -> None:
        super().__init__()
        self.graph = graph
        self.flags: dict[str, tuple[bool, bool]] = {}
        saved = model.state_dict(keep_vars=True)
        for node in graph.nodes:
            path = str(node.target)
            if node.op == "call_module":
                module = model.get_submodule(path)
                inner = [f"{path}.{name}" if name else path for name, _ in module.named_modules()]
                self.flags.update((name, network.training[name]) for name in inner if name in network.training)
                self._hold(path, _pure(module))
            elif node.op == "get_attr":
                constant = network.constants.get(path)
                self._hold(path, operator.attrgetter(path)(model) if constant is None else constant, path in saved)

    def _hold(self, path: str, value: Any, persistent: bool = False) -> None:
        *owners, name = path.split(".")
        holder: nn.Module = self
        for owner in owners:
            if owner not in holder._modules:
                holder.add_module(owner, nn.Module())
            holder = holder.get_submodule(owner)
        if isinstance(value, nn.Module):
            holder.add_module(name, value)
        elif isinstance(value, nn.Parameter):
            holder.register_parameter(name, value)
        elif not hasattr(holder, name):
            holder.register_buffer(name, value, persistent)

    def train(self, mode: bool = True) -> "Body":
        """Set the mode of each module as the model's own ``train`` sets it."""
        super().train(mode)
        for path, flags in self.flags.items():
            self.get_submodule(path).training = flags[not mode]
        return self


class Part(nn.Module):
    """Consecutive layers of a chain, from the values at its first boundary to those at its last.

    Parameters keep their names in the whole model. In training every layer draws from generators seeded by
    (seed, step, microbatch, layer), so the draws do not depend on where the model is cut.
    """

    def __init__(self, body: Body, inputs: tuple[str, ...], outputs: tuple[str, ...], begins: dict[str, int]) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs
        self.outputs = outputs
        # Layer number by the name of its first node, of the layers that may draw.
        self._begins = _drawing(body, begins)
        self._draws_elsewhere = any(node.meta.get("draws") for node in body.graph.nodes)
        nodes = body.graph.nodes
        self._modes = {mode for node in nodes for mode in node.meta.get("modes", ()) if mode != AMBIENT}
        self._casts = any(mode.autocast for mode in self._modes)
        self._nested = {node.name for node in nodes if _is_nested(node)}
        self._last_uses = _last_uses(body.graph)
        self._computing: Callable[[fx.Node, Any, Any], Any] | None = None
        called = {str(node.target) for node in nodes if node.op == "call_module"}
        self._called = {path: body.get_submodule(path) for path in called}  # which takes longer than some calls
        self._has_users = not all(type(one).__module__.startswith("torch.") for one in self._called.values())

    def forward(self, values: Values, moment: Moment | None = None) -> Values:
        """Run the layers on ``values``. In training ``moment`` seeds each layer's draws; None leaves the generators."""
        given = [values[name] for name in self.inputs]
        # In the model a value with a gradient is no leaf: autocast takes one for a weight, whose cast it keeps, and
        # modules of the user may ask.
        given = [
            value.view_as(value) if _is_leaf(value) and (self._has_users or self._may_cast(value)) else value
            for value in given
        ]
        keeper = ModeKeeper() if self._modes else None
        try:
            results = self._run(given, moment if self.training else None, keeper)
        finally:
            if keeper is not None and self._casts:
                keeper.close()
        return dict(zip(self.outputs, results, strict=True))

    def _may_cast(self, value: torch.Tensor) -> bool:
        """Whether autocast is on for ``value``, in a layer or around all of them."""
        kind = value.device.type
        return self._casts or (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))

    def _run(self, given: list[Any], moment: Moment | None, keeper: ModeKeeper | None) -> list[Any]:
        inputs, made = iter(given), dict[str, Any]()  # by the name of the node
        device = next((value.device for value in given if hasattr(value, "device")), torch.device("cpu"))
        compute = self._computing or self.compute

        def argument(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return made[leaf.name]
            return device if leaf is HERE else leaf

        for node in self.body.graph.nodes:
            if node.op == "placeholder":
                made[node.name] = next(inputs)
                continue
            if node.op == "output":
                return [made[result.name] for result in node.all_input_nodes]
            if moment is not None and node.name in self._begins:
                self._seed(layer_seed(moment, self._begins[node.name]))
            args, kwargs = (node.args, node.kwargs) if self.training else _in_evaluation(node)
            if node.name in self._nested:
                args, kwargs = map_tree(argument, (args, kwargs))
            else:
                args = tuple(map(argument, args))
                kwargs = {name: argument(value) for name, value in kwargs.items()}
            mode = node.meta["modes"][0 if self.training else 1]
            if keeper is None or mode == AMBIENT:
                made[node.name] = compute(node, args, kwargs)
            else:
                with keeper.around(mode):
                    made[node.name] = compute(node, args, kwargs)
            for used in self._last_uses.get(node.name, ()):
                del made[used]
        raise AssertionError("a graph ends with its output")

    def compute(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """The value of ``node``, whose arguments are computed."""
        match node.op:
            case "call_module":
                return self._called[str(node.target)](*args, **kwargs)
            case "get_attr":
                return operator.attrgetter(str(node.target))(self.body)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # callable, as op says

    def _seed(self, seed: int) -> None:
        if self._draws_elsewhere:
            seed_all(seed)
        else:
            seed_generators(seed)

    @contextmanager
    def watched(self, note: Callable[[Any], None]) -> Iterator[None]:
        """Tell ``note`` the value of each node while this lasts."""

        def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
            made = self.compute(node, args, kwargs)
            note(made)
            return made

        with self.computing(call):
            yield

    @contextmanager
    def computing(self, call: Callable[[fx.Node, Any, Any], Any]) -> Iterator[None]:
        """Let ``call`` compute each node from its arguments, in the place of ``compute``, while this lasts."""
        self._computing = call
        try:
            yield
        finally:
            self._computing = None

    def drawing(self, x: torch.Tensor) -> list[tuple[fx.Node, int]]:
        """The nodes that draw in training, each with its layer. Runs ``x`` through the part: buffers may change."""
        found: list[tuple[fx.Node, int]] = []
        layer = [0]

        def watched(node: fx.Node, args: Any, kwargs: Any) -> Any:
            layer[0] = self._begins.get(node.name, layer[0])
            before, others = torch.get_rng_state(), Draws()
            made = self.compute(node, args, kwargs)
            if others.changed() or not torch.equal(before, torch.get_rng_state()):
                found.append((node, layer[0]))
            return made

        with generators_kept(), self.computing(watched):
            self.train()({self.inputs[0]: x})
        return found


def _pure(module: nn.Module) -> nn.Module:
    """``module``, or a copy that shares its tensors and does not work in place, as the trace took it."""
    if not getattr(module, "inplace", False) or list(module.children()):
        return module
    made = copy.copy(module)
    made.inplace = False  # type: ignore[assignment]  # nn.Module knows tensors and modules
    return made


def _drawing(body: Body, begins: dict[str, int]) -> dict[str, int]:
    """Those of ``begins`` whose layers may draw: to seed a layer takes longer than to run some."""
    found, first = {}, ""
    for node in body.graph.nodes:
        first = node.name if node.name in begins else first
        if first and not _is_steady(body, node):
            found[first] = begins[first]
    return found


def _is_steady(body: Body, node: fx.Node) -> bool:
    """Whether ``node`` is known to draw nothing."""
    if node.op == "call_module":
        module = body.get_submodule(str(node.target))
        changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        return type(module) in STEADY_MODULES and not changed
    return node.op in ("get_attr", "output") or node.target in STEADY_FUNCTIONS


def _in_evaluation(node: fx.Node) -> tuple[Any, Any]:
    """The arguments of ``node`` in evaluation."""
    other = node.meta.get("evaluate", {})
    args = tuple(other.get(place, given) for place, given in enumerate(node.args))
    return args, {name: other.get(name, given) for name, given in node.kwargs.items()}


def _is_nested(node: fx.Node) -> bool:
    """Whether an argument of ``node`` holds, within a list or the like, a value to fill in."""
    others = (*node.args, *node.kwargs.values(), *node.meta.get("evaluate", {}).values())
    inner = [value for value in others if not isinstance(value, fx.Node) and value is not HERE]
    return any_leaf(lambda leaf: isinstance(leaf, fx.Node) or leaf is HERE, inner)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf


def _last_uses(graph: fx.Graph) -> dict[str, list[str]]:
    """The values, by name, that each node is the last to use."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    uses: dict[str, list[str]] = {}
    for used, user in last.items():
        if user.op not in ("output", "placeholder"):
            uses.setdefault(user.name, []).append(used.name)
    return uses


def layer_seed(moment: Moment, layer: int) -> int:
    """Seed of the draws of layer number ``layer`` at ``moment``."""
    return derive(moment.seed, moment.step, moment.microbatch, layer)


class PlainPart(nn.Module):
    """All layers of a model at once: the user's own module in plain PyTorch, not the traced one.

    Only its generators are seeded, where layers of ``whole``, the traced part, draw: in hooks before the modules that
    draw, and before functions of torch that a mode recognises by their names.
    """

    def __init__(self, model: nn.Module, whole: Part, sample: torch.Tensor) -> None:
        super().__init__()
        self.body = model
        self.inputs, self.outputs = whole.inputs, whole.outputs
        self._moment: Moment | None = None
        self._layer = -1
        self._at_modules: dict[str, list[int]] = {}  # layers that draw, by the module called, in the order of calls
        self._at_functions: list[tuple[str, int]] = []
        for node, layer in whole.drawing(torch.zeros(2, *sample.shape, dtype=sample.dtype)):
            seen = node.op == "call_method" or f"{getattr(node.target, '__module__', '')}.".startswith(
                ("torch.", "None.")
            )
            owner = str(node.target if node.op == "call_module" else node.meta["owner"])
            if node.op != "call_module" and (seen or not owner):
                self._at_functions.append((node.meta["called"], layer))
            else:
                self._at_modules.setdefault(owner, []).append(layer)
        self._calls: dict[str, int] = {}
        self._inside = 0  # modules that draw
        for path in self._at_modules:
            module = model.get_submodule(path)
            module.register_forward_pre_hook(partial(self._enter, path))
            module.register_forward_hook(self._leave, always_call=True)

    def forward(self, values: Values, moment: Moment | None = None) -> Values:
        """Run the model on ``values``, see ``Part.forward``."""
        self._moment, self._layer = moment if self.training else None, -1
        self._calls, self._inside = dict.fromkeys(self._at_modules, 0), 0
        with _Called(self) if self._at_functions and self._moment else nullcontext():
            result = self.body(values[self.inputs[0]])
        self._moment = None
        return {self.outputs[0]: result}

    def _enter(self, path: str, *_: Any) -> None:
        if self._moment is not None:
            layers = self._at_modules[path]
            self._seed(layers[min(self._calls[path], len(layers) - 1)])
            self._calls[path] += 1
        self._inside += 1

    def _leave(self, *_: Any) -> None:
        self._inside -= 1

    def _seed(self, layer: int) -> None:
        if self._moment is not None and layer != self._layer:
            self._layer = layer
            seed_all(layer_seed(self._moment, layer))


class _Called(TorchFunctionMode):
    """Seeds before each function that draws, known by its name and the order of calls, outside of modules that draw."""

    def __init__(self, part: PlainPart) -> None:
        super().__init__()
        self._part, self._expected = part, list(part._at_functions)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self._expected and name == self._expected[0][0] and not self._part._inside:
            self._part._seed(self._expected.pop(0)[1])
        return func(*args, **(kwargs or {}))


def seed_all(seed: int) -> None:
    """Seed torch's generators, Python's and, where it is imported, numpy's."""
    seed_generators(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % (1 << 32))
