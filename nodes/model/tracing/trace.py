"""Tracing of a model for training and evaluation; modules that cannot be traced are kept whole."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin

from nodes.errors import ModelError, one_line
from nodes.model.tracing.copies import (
    ModelCopy,
    own_numbers,
    parameters_replaced,
    registered,
    run_with_data,
    with_data,
)
from nodes.model.tracing.leaves import has_backward_hooks, is_leaf, keeps_form, like, reason_to_keep
from nodes.model.tracing.ledger import META, Ledger
from nodes.model.tracing.modes import Mode
from nodes.model.tracing.patches import Draws, generators_kept, patched
from nodes.model.tracing.recorder import Recorder
from nodes.model.tracing.tree import map_tree
from nodes.model.tracing.values import BATCHES, Members, UnseenError, WrongInputError, reason_of, user_line
from nodes.user_code import contained

SMALLEST = {True: 2, False: 1}  # batch of a trace, by training: batch norm needs two
UNLIKELY_SEED = 0x3A17_5C29_D04B_6E81  # a model that seeds the generator is told by another one
WAY_OUT = "move that code into a module of its own; what cannot be traced there, or has `whole = True`, stays one layer"


@dataclass(frozen=True)
class Kept:
    """A module that is one layer because it cannot be traced: its path, why, and the file and line."""

    path: str
    reason: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f" ({self.where})" if self.where else "")


@dataclass
class Network:
    """A model as one graph over its own modules.

    In the ``meta`` of a node: ``value`` for the smallest batch, a meta tensor or a number; ``modes``, those of torch
    around the operation in training and evaluation; ``evaluate``, the arguments, by position or name, that differ in
    evaluation; ``joined``, if it belongs to the layer of the next operation; ``draws``, if it draws outside of torch.
    """

    graph: fx.Graph
    input: str
    output: str
    constants: dict[str, torch.Tensor] = field(default_factory=dict)  # of ``get_attr`` nodes, besides the model's
    training: dict[str, tuple[bool, bool]] = field(default_factory=dict)  # flag of a module in training and evaluation
    kept: tuple[Kept, ...] = ()  # modules that are whole because they cannot be traced


@dataclass
class Pass:
    """One traced forward pass, in training or in evaluation."""

    graph: fx.Graph
    output: fx.Node
    constants: dict[str, torch.Tensor]
    flags: dict[str, bool]


def trace(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Network:
    """The graph of ``model``, which stays as it is, for both modes. Raises ModelError."""
    sample = torch.empty(input_shape, dtype=dtype, device=META)
    initialise(model, sample)
    kept: dict[str, Kept] = {}
    draws = False
    with generators_kept():
        torch.default_generator.manual_seed(UNLIKELY_SEED)
        while True:
            tracing = _Tracing(model, sample, kept, draws)
            try:
                with contained():
                    train, evaluate = tracing.run(True), tracing.run(False)
                    found = tracing.found or tracing.counting(train) or unify(train, evaluate, kept)
            except Exception as error:
                raise _refused(model, sample, error) from error
            draws = draws or tracing.drew
            if not found and not (tracing.drew and not tracing.watching):
                return as_network(train, evaluate, tuple(kept.values()))
            kept |= found


def check_openable(model: nn.Module) -> None:
    """Raise ModelError for a model whose layers no front end can find."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("the model is compiled by torch.jit.script, and has no Python code; give the module itself")
    if has_backward_hooks(model):
        raise ModelError(f"a backward hook on the whole model, which no layer has; {WAY_OUT}")


def initialise(model: nn.Module, sample: torch.Tensor) -> None:
    """Let lazy modules take their shapes, as the first forward pass would."""
    lazy = [m for m in model.modules() if isinstance(m, LazyModuleMixin) and m.has_uninitialized_params()]
    if not lazy:
        return
    mode = model.training
    device = next((tensor.device for _, tensor in registered(model)), torch.device("cpu"))
    try:
        with torch.no_grad(), contained():
            model.eval()(torch.zeros(1, *sample.shape, dtype=sample.dtype, device=device))
    except Exception as error:
        raise ModelError(f"{not_taken(sample)}: {one_line(error)}") from error
    finally:
        model.train(mode)


class _Tracing:
    """Both passes of one attempt, on one copy of the model; ``found`` are modules that failed in it."""

    def __init__(self, model: nn.Module, sample: torch.Tensor, kept: dict[str, Kept], watching: bool) -> None:
        self.found: dict[str, Kept] = {}
        self.drew = False
        self.watching = watching  # for draws outside of torch
        self._numbers: list[dict[tuple[str, str], float]] = []  # after each pass
        self._model, self._sample, self._kept = model, sample, kept
        self._copy = ModelCopy(model)
        self._device = next((t.device for _, t in registered(model) if not t.is_meta), torch.device("cpu"))
        self._call_original = nn.Module.__call__

    def run(self, training: bool) -> Pass:
        """Trace one pass. Raises what the model's own forward raises."""
        with torch.set_grad_enabled(training):  # as around the model in a run
            ledger = Ledger(self._copy.named, self._copy.attributes, self._device, SMALLEST[training])
        recorder = Recorder(ledger, self._device)
        self._recorder, self._flags = recorder, dict[str, bool]()
        model = self._copy.model.train(training)
        states = Draws()
        first, second = (self._sample.new_empty(size, *self._sample.shape) for size in (SMALLEST[training], BATCHES[0]))
        with (
            torch.set_grad_enabled(training),
            patched(recorder, model, self._caller()),
            recorder,
            ledger.watching_regions(),
        ):
            given = ledger.placeholder(_input_name(model), first, second)
            result = model(given)
            ledger.check_integers()
            if not isinstance(result, torch.Tensor):
                kind = "tuple" if isinstance(result, Members) else type(result).__name__
                raise ModelError(f"the model returns a {kind}; expected one tensor")
            output = ledger.node_of(result)
            if output is None:
                raise ModelError("the model returns a constant, which does not follow from its input")
            ledger.graph.output(output)
        self.drew = self.drew or states.changed()
        self._numbers.append(own_numbers(model))
        return Pass(ledger.graph, output, ledger.constants, self._flags)

    def counting(self, train: Pass) -> dict[str, Kept]:
        """Modules whose own numbers the second pass changed again, such as counts of their calls.

        Raises UnseenError if the model's own forward computes something else than in ``train`` for such a number.
        """
        one, other = self._numbers
        changed = [key for key in one.keys() & other.keys() if one[key] != other[key] and key[0] not in self._kept]
        reason = "its {} changes from call to call"
        found = {path: Kept(path, reason.format(name)) for path, name in changed if path}
        own = next((name for path, name in changed if not path), None)
        if own and not found and _listing(self.run(True)) != _listing(train):
            raise UnseenError(f"it computes with its {own}, which changes from call to call")
        return found

    def _caller(self) -> Callable[..., Any]:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._recorder.executing:
                return self._call_original(module, *args, **kwargs)
            return self._call(module, args, kwargs)

        return call

    def _call(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if type(module).__name__ == "OptimizedModule":
            module = module._orig_mod  # type: ignore[assignment]  # the user's module
        path, owners = self._copy.paths.get(id(module)), self._recorder.ledger.owners
        if path and (path in self._kept or path in self.found or is_leaf(module)):
            return self._leaf(path, module, args, kwargs)
        owners.append(owners[-1] if path is None else path)
        states = Draws() if self.watching else None
        found, generator = len(self.found), torch.default_generator.get_state()
        try:
            result = _forward(module, args, kwargs)
            if torch.initial_seed() != UNLIKELY_SEED:
                raise UnseenError("the generator of torch is seeded")
            if states is not None and len(self.found) == found and states.changed():
                raise UnseenError("numbers drawn outside of torch, by random or numpy")
        except (WrongInputError, ModelError):
            raise
        except Exception as error:
            if not path:
                raise
            where = getattr(error, "where", "") or user_line(error)
            self.found[path] = Kept(path, reason_of(error), where)
            torch.default_generator.set_state(generator)
        else:
            return result
        finally:
            owners.pop()
        return self._leaf(path, module, args, kwargs)  # so that this attempt finds all that fail

    def _leaf(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        for name, inner in module.named_modules():
            inside = f"{path}.{name}" if name else path
            if self._flags.setdefault(inside, inner.training) != inner.training:
                raise UnseenError(f"{inside} runs in training and in evaluation mode in one pass")
        in_place = bool(getattr(module, "inplace", False)) and not list(module.children())
        if reason := reason_to_keep(module):
            self._kept.setdefault(path, Kept(path, reason))
        if parameters_replaced(module):
            raise UnseenError(f"{path} runs on other tensors than its parameters")
        before = Draws() if path in self._kept or path in self.found else None
        generator = torch.default_generator.get_state()

        def run(*args: Any, **kwargs: Any) -> Any:
            if in_place:
                module.inplace = False  # type: ignore[assignment]  # nn.Module knows tensors and modules
            try:
                return like(module, *args) if keeps_form(module, args) else _forward(module, args, kwargs)
            except Exception:  # without data; with data it may run
                return self._run_with_data(path, args, kwargs)
            finally:
                torch.default_generator.set_state(generator)
                if in_place:
                    module.inplace = True  # type: ignore[assignment]  # as above

        run.module = module  # type: ignore[attr-defined]  # autocast looks at it
        result = self._recorder.record("call_module", path, args, kwargs, run)
        if before is not None and before.changed():
            before.restore()
            self._recorder.draws(result)
        return self._recorder.replace(args[0], result) if in_place else result

    def _run_with_data(self, path: str, args: Any, kwargs: Any) -> Any:
        try:
            module = with_data(self._model.get_submodule(path), self._device)
            for name, inner in module.named_modules():
                inner.training = self._flags[f"{path}.{name}" if name else path]
            return run_with_data(lambda *args, **kwargs: _forward(module, args, kwargs), args, kwargs, self._device)
        except Exception as error:
            raise WrongInputError(one_line(error)) from error


def _forward(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A call of ``module`` with its hooks."""
    return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch has no types here


def _input_name(model: nn.Module) -> str:
    names = list(inspect.signature(model.forward).parameters)
    return names[0] if names else "input"


def not_taken(sample: torch.Tensor) -> str:
    """The error of a model that fails on inputs like ``sample``."""
    kind = "pictures" if sample.is_floating_point() else "tokens"
    return f"the model does not take {kind} of shape {tuple(sample.shape)}"


def _refused(model: nn.Module, sample: torch.Tensor, error: Exception) -> ModelError:
    """The error of a model whose own forward cannot be traced, or that does not take its input."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, WrongInputError):
        return ModelError(f"{not_taken(sample)}: {error}")
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        return ModelError("the model takes several inputs; expected one tensor, the pictures")
    try:
        with torch.no_grad(), contained():
            device = next((tensor.device for _, tensor in registered(model) if not tensor.is_meta), torch.device("cpu"))
            with_data(model, device).eval()(torch.ones(2, *sample.shape, dtype=sample.dtype, device=device))
    except Exception as wrong:
        return ModelError(f"{not_taken(sample)}: {one_line(wrong)}")
    where = getattr(error, "where", "") or user_line(error)
    place = f" ({where})" if where else ""
    return ModelError(f"the model's own forward cannot be traced: {reason_of(error)}{place}; {WAY_OUT}")


def unify(train: Pass, evaluate: Pass, kept: dict[str, Kept]) -> dict[str, Kept]:
    """Join both passes into the graph of ``train``; return modules that differ between them. Raises UnseenError."""
    ones, others = (list(one.graph.nodes) for one in (train, evaluate))
    _follow_mode(train, evaluate)
    if _listing(train) == _listing(evaluate):
        for one, other in zip(ones, others, strict=True):
            one.meta["modes"] = (one.meta.get("mode", Mode()), other.meta.get("mode", Mode()))
            one.meta["value"] = other.meta.get("value")
        return {}
    owned, owned_too = _by_owner(train), _by_owner(evaluate)
    paths = [path for path in owned.keys() | owned_too.keys() if owned.get(path) != owned_too.get(path)]
    if "" in paths or set(paths) <= kept.keys():
        reason = "operations outside any module differ between training and evaluation"
        raise UnseenError(reason, _first_difference(ones, others))
    return {path: Kept(path, "it differs between training and evaluation") for path in paths}


def _first_difference(ones: list[fx.Node], others: list[fx.Node]) -> str:
    for one, other in zip(ones, others, strict=False):
        if one.target != other.target:
            return str(one.meta.get("where") or other.meta.get("where") or "")
    return ""


def _follow_mode(train: Pass, evaluate: Pass) -> None:
    """Let functions take constants that differ in evaluation, such as in ``F.dropout(x, p, self.training)``."""
    for one, other in zip(train.graph.nodes, evaluate.graph.nodes, strict=False):
        if one.op == "call_function" and one.target is other.target:
            differing = {
                key
                for key, given in _constants(one).items()
                if key in _constants(other) and given != _constants(other)[key]
            }
            if differing:
                one.meta["evaluate"] = {key: _constants(other)[key] for key in differing}
                for node in (one, other):
                    node.meta["differing"] = differing


def _constants(node: fx.Node) -> dict[int | str, Any]:
    def constant(argument: Any) -> bool:
        made: list[fx.Node] = []
        fx.map_arg(argument, made.append)
        return not made

    arguments: list[tuple[int | str, Any]] = [*enumerate(node.args), *node.kwargs.items()]
    return {key: argument for key, argument in arguments if constant(argument)}


def _listing(one: Pass) -> list[Any]:
    """The nodes of a pass such that equal ones compute the same."""
    places = {node: place for place, node in enumerate(one.graph.nodes)}
    return [
        (node.op, _target(one, node), str(map_tree(lambda leaf: places.get(leaf, leaf), _arguments(node))))
        for node in places
    ]


def _target(one: Pass, node: fx.Node) -> Any:
    constant = one.constants.get(str(node.target)) if node.op == "get_attr" else None
    return node.target if constant is None else (constant.dtype, constant.tolist())


def _arguments(node: fx.Node) -> Any:
    """The arguments of ``node``; those that follow the mode are left out."""
    differing = node.meta.get("differing", ())
    args = [None if place in differing else arg for place, arg in enumerate(node.args)]
    return args, {key: None if key in differing else arg for key, arg in node.kwargs.items()}


def _by_owner(one: Pass) -> dict[str, list[Any]]:
    """The operations that each module runs itself, without their operands, and the constants that it reads."""
    owned: dict[str, list[Any]] = {}
    for node in one.graph.nodes:
        if node.op not in ("placeholder", "output"):
            arguments = map_tree(lambda leaf: None if isinstance(leaf, fx.Node) else leaf, _arguments(node))
            owned.setdefault(node.meta["owner"], []).append((node.op, _target(one, node), str(arguments)))
    return owned


def as_network(train: Pass, evaluate: Pass, kept: tuple[Kept, ...]) -> Network:
    """The network of two passes that ``unify`` has joined."""
    graph = train.graph
    for node in reversed(list(graph.nodes)):
        value = node.meta.get("value")
        if not node.users and isinstance(value, (int, float)):
            graph.erase_node(node)
        node.meta["value"] = map_tree(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, value)
    flags = {path: (flag, evaluate.flags.get(path, flag)) for path, flag in train.flags.items()}
    first = next(iter(graph.nodes))
    return Network(graph, first.name, train.output.name, train.constants, flags, kept)
