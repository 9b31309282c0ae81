"""Comparison of a traced network with the model itself, which runs as plain PyTorch.

Both train for two steps, of 2 and 3 pictures, and are evaluated, with all generators seeded alike. Outputs, gradients
(their absence too) and buffers must be equal to the bit, unless the model differs from itself from run to run. Where
they are not, both run once more to find the module in which the difference begins.
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nodes.errors import ModelError, one_line
from nodes.model.part import Part
from nodes.model.tracing.copies import ModelCopy, registered, with_data
from nodes.model.tracing.patches import generators_kept
from nodes.model.tracing.trace import not_taken
from nodes.seeds import seed_generators
from nodes.user_code import contained

BATCHES = (2, 3)
FLOPS = 3e8  # a picture, forward: above it a model is compared only where that is asked for
NOISE = 4.0  # times the difference between two plain runs that is taken for chance
ROUNDING = 1e-3  # of the largest number: two plain runs that differ by more do not differ by chance

Observed = dict[str, torch.Tensor | None]  # by what it is: output, gradient or buffer, and when
_equal: set[Any] = set()  # fingerprints of models found equal in this process


class UnfaithfulError(ModelError):
    """A model whose layers compute something else than it does, or which does so itself from run to run."""


def check_fidelity(model: nn.Module, part_of: Callable[[nn.Module], Part], sample: torch.Tensor, always: bool) -> None:
    """Raise UnfaithfulError unless the parts that ``part_of`` makes of copies of ``model`` compute what it does.

    ModelError: the model does not run. One without data is not compared; without ``always`` neither is one above
    ``FLOPS``.
    """
    tensors = [tensor for _, tensor in registered(model)]
    if any(tensor.is_meta for tensor in tensors):
        return
    fingerprint = _fingerprint(model)
    mark = (fingerprint, tuple(sample.shape), sample.dtype)
    if fingerprint and mark in _equal:
        return
    grads = [(tensor, tensor.grad) for tensor in tensors]
    device = tensors[0].device if tensors else torch.device("cpu")
    with generators_kept(), torch.enable_grad():
        if not always and flops_of(part_of(ModelCopy(model).model), sample) > FLOPS:
            return
        plain = _observed_plain(model, sample, device)
        part = part_of(with_data(model, device))
        found = _observed(lambda x: next(iter(part({part.inputs[0]: x}).values())), part, sample, device)
        worst, size = _worst(plain, found)
        if worst:
            differing, chance = _worst(plain, _observed_plain(model, sample, device))
            if size <= NOISE * chance:
                _check_repeats(model, plain, differing, chance)
                worst = ""
        begins = _beginning(model, part_of, sample, device, worst) if worst else ""
    for tensor, gradient in grads:  # hooks of a copy may reach the model
        tensor.grad = gradient
    if worst:
        raise UnfaithfulError(
            f"the layers do not compute what the model does: {worst} differs by {size:.3g}, which begins in {begins}; "
            "a module with `whole = True` is kept as one layer, which computes what it does"
        )
    _equal.add(mark)


def _check_repeats(model: nn.Module, plain: Observed, differing: str, chance: float) -> None:
    """Raise UnfaithfulError if plain runs of ``model`` differ, by ``chance``, by more than the order of sums explains.

    What keeps such a state may be whole; then the model is taken as it is.
    """
    one = plain[differing]
    largest = 0.0 if one is None else float(one.detach().abs().nan_to_num(0).max())
    if chance > ROUNDING * largest and not any(getattr(module, "whole", False) is True for module in model.modules()):
        raise UnfaithfulError(
            f"the model computes something else each time it runs, though all generators are seeded: {differing} "
            f"differs by {chance:.3g}; keep what it counts or draws in a module of its own, with `whole = True`"
        )


def _observed_plain(model: nn.Module, sample: torch.Tensor, device: torch.device) -> Observed:
    copied = with_data(model, device)
    try:
        with contained():
            return _observed(copied, copied, sample, device)
    except Exception as error:
        raise ModelError(f"{not_taken(sample)}: {one_line(error)}") from error


def _observed(
    run: Callable[[torch.Tensor], Any],
    module: nn.Module,
    sample: torch.Tensor,
    device: Any,
    begin: Callable[[torch.Tensor], None] = lambda given: None,
) -> Observed:
    """Train ``module`` for two steps through ``run``, then evaluate it; ``begin`` gets the pictures of each."""
    seen: Observed = {}
    for step, batch in enumerate(BATCHES):
        module.train()
        begin(given := _seeded(step, batch, sample, device))
        output = run(given)
        seen[f"output of training step {step + 1}"] = output.detach().clone()
        if output.requires_grad:
            output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(step)).to(output))
        for name, parameter in module.named_parameters():
            gradient = parameter.grad
            seen[f"gradient of {_plain_name(name)} in training step {step + 1}"] = gradient
            if gradient is not None:
                with torch.no_grad():
                    parameter.sub_(gradient, alpha=0.01)
                parameter.grad = None
        for name, buffer in module.named_buffers():
            seen[f"buffer {_plain_name(name)} after training step {step + 1}"] = buffer.detach().clone()
    module.eval()
    with torch.no_grad():
        begin(given := _seeded(0, BATCHES[0], sample, device))
        seen["output in evaluation"] = run(given)
    return seen


def _seeded(step: int, batch: int, sample: torch.Tensor, device: Any) -> torch.Tensor:
    """Pictures of a step; all generators are seeded."""
    seed_generators(step)
    random.seed(step)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(step)
    generator = torch.Generator().manual_seed(step)
    if not sample.is_floating_point():  # tokens that every vocabulary has
        return torch.randint(2, (batch, *sample.shape), generator=generator).to(device)
    return torch.randn(batch, *sample.shape, generator=generator).to(device)


def _plain_name(name: str) -> str:
    return name.removeprefix("body.")


def _worst(plain: Observed, found: Observed) -> tuple[str, float]:
    """What differs most, in the order of ``plain``'s first such kind, and by how much."""
    worst, size = "", 0.0
    for name, one in plain.items():
        other = found.get(name)
        if one is None or other is None:
            difference = 0.0 if name not in found or (one is None) == (other is None) else float("inf")
        elif one.shape != other.shape or one.dtype != other.dtype:
            difference = float("inf")
        else:
            difference = _difference(one, other)
        if difference > size:
            worst, size = name, difference
    return worst, size


class _Seen(NamedTuple):
    """A tensor when it was made, and its gradient once that is known."""

    value: torch.Tensor
    gradient: list[torch.Tensor]


class _ModuleCall(NamedTuple):
    path: str
    given: list[_Seen]
    made: list[_Seen]


class _Calls:
    """Calls of the modules of ``watched`` in each of the three runs, in the order of their ends, and ``others``."""

    def __init__(self, watched: nn.Module) -> None:
        self.runs: list[list[_ModuleCall]] = []
        self.others: list[list[_Seen]] = []  # tensors seen in each run beside those
        self._open: list[list[_Seen]] = []
        for path, module in watched.named_modules():
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(partial(self._leave, path))

    def begin(self, given: torch.Tensor) -> None:
        self.runs.append([])
        self.others.append([_see(given)])

    def note(self, value: Any) -> None:
        self.others[-1] += map(_see, _tensors(value))

    def of(self, run: int) -> list[_Seen]:
        """All tensors of a run."""
        return [*self.others[run], *(one for call in self.runs[run] for one in (*call.given, *call.made))]

    def _enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._open.append([_see(tensor) for tensor in _tensors((args, kwargs))])

    def _leave(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        self.runs[-1].append(_ModuleCall(path, self._open.pop(), [_see(tensor) for tensor in _tensors(output)]))


def _see(tensor: torch.Tensor) -> _Seen:
    seen = _Seen(tensor.detach().clone(), [])
    if tensor.requires_grad:
        note = seen.gradient.append
        tensor.register_hook(lambda gradient: note(gradient.detach().clone()))  # type: ignore[no-untyped-call]  # of torch
    return seen


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _beginning(
    model: nn.Module, part_of: Callable[[nn.Module], Part], sample: torch.Tensor, device: torch.device, worst: str
) -> str:
    """The module in which the layers begin to compute something else than the model."""
    path = None
    with suppress(Exception):  # models that allow no hooks
        copied, part = with_data(model, device), part_of(with_data(model, device))
        plain, layers = _Calls(copied), _Calls(part.body)
        _observed(copied, copied, sample, device, plain.begin)
        with part.watched(layers.note):
            run = lambda x: next(iter(part({part.inputs[0]: x}).values()))  # noqa: E731
            _observed(run, part, sample, device, layers.begin)
        found = (_first_other(calls, layers.of(number)) for number, calls in enumerate(plain.runs))
        path = next((one for one in found if one is not None), None)
    if path is None:  # the owner of what differs
        name = next((name for name, _ in registered(model) if f" {name} " in worst), "")
        path = name.rpartition(".")[0]
    kind = type(model.get_submodule(path))
    where = path or "the model's own forward"
    return f"{where} ({kind.__module__}.{kind.__qualname__})"


def _first_other(calls: list[_ModuleCall], layers: list[_Seen]) -> str | None:
    """The innermost module that makes something else of what the layers make too, in one run; None if there is none."""

    def among_layers(seen: list[_Seen], backward: bool = False) -> bool:
        return all(any(_alike(one, other, backward) for other in layers) for one in seen)

    for call in calls:
        if among_layers(call.given) and not among_layers(call.made):
            return call.path
    found = None
    for call in reversed(calls):
        inside = found is None or call.path.startswith(f"{found}." if found else "")
        if inside and among_layers(call.made, backward=True) and not among_layers(call.given, backward=True):
            found = call.path
    return found


def _alike(one: _Seen, other: _Seen, backward: bool) -> bool:
    pairs = [(one.value, other.value)]
    if backward:
        if len(one.gradient) != len(other.gradient):
            return False
        pairs += zip(one.gradient, other.gradient, strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype and not _difference(a, b) for a, b in pairs)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if torch.equal(one, other):
        return 0.0
    apart = (one.double() - other.double()).abs()
    alike = (one == other) | (one.isnan() & other.isnan())
    return float(apart.masked_fill(alike, 0).nan_to_num(float("inf")).max())


def flops_of(part: Part, sample: torch.Tensor) -> int:
    """Operations of the forward pass of one input; 0 where they cannot be counted."""
    named = [*part.named_parameters(), *part.named_buffers()]
    empty = {name: tensor.detach().to("meta") for name, tensor in named}
    mode = part.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        try:
            given = {part.inputs[0]: torch.empty(1, *sample.shape, dtype=sample.dtype, device="meta")}
            torch.func.functional_call(part.eval(), empty, (given,))
        except Exception:  # a module that needs data: it runs, however long it takes
            return 0
        finally:
            part.train(mode)
    return int(counter.get_total_flops())


def _fingerprint(model: nn.Module) -> Any:
    """Equal for models that run the same code on the same settings; None where that cannot be told."""
    try:
        return tuple((path, type(module), _settings(module)) for path, module in model.named_modules())
    except (TypeError, RecursionError):
        return None


def _settings(module: nn.Module) -> Any:
    """The attributes of ``module``, its own tensors and hooks among them."""
    settings = []
    for name, value in vars(module).items():
        if name.startswith("_forward_") or name.startswith("_backward_"):  # hooks by numbers that never return
            settings.append((name, _canonical(list(value.values()))))
        elif name != "_modules" and "state_dict" not in name:
            settings.append((name, _canonical(value)))
    return tuple(settings)


def _canonical(value: Any) -> Any:  # noqa: PLR0911 (one a type)
    """``value`` such that equal ones decide the same. Raises TypeError for a type of which that is not known."""
    match value:
        case torch.Tensor():
            return tuple(value.shape), value.dtype, value.requires_grad
        case float():
            return value.hex()  # of nan and the zeros too
        case None | int() | complex() | str() | bytes() | Enum() | type() | BuiltinFunctionType():
            return type(value), value
        case torch.dtype() | torch.device() | torch.memory_format() | torch.layout():
            return value
        case tuple() | list():
            return type(value), *map(_canonical, value)
        case set() | frozenset():
            return type(value), frozenset(map(_canonical, value))
        case dict():
            return type(value), *((_canonical(key), _canonical(item)) for key, item in value.items())
        case partial():
            return _canonical((value.func, value.args, value.keywords))
        case FunctionType():
            held = [cell.cell_contents for cell in value.__closure__ or ()]
            return value.__code__, _canonical((value.__defaults__, value.__kwdefaults__, held))
    raise TypeError(type(value).__name__)
