"""Comparison of a traced network with the model itself, which runs as plain PyTorch.

Both train for two steps, of 2 and 3 pictures, and are evaluated, with all generators seeded alike. Outputs, gradients
(their absence too) and buffers must be equal to the bit, unless the model differs from itself from run to run.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nodes.errors import ModelError, one_line
from nodes.model.part import Part
from nodes.model.tracing.copies import registered, with_data
from nodes.model.tracing.patches import generators_kept
from nodes.model.tracing.trace import not_taken
from nodes.seeds import seed_generators

BATCHES = (2, 3)
FLOPS = 3e8  # a picture, forward: above it a model is compared only where that is asked for
NOISE = 4.0  # times the difference between two plain runs that is taken for chance

Observed = dict[str, torch.Tensor | None]  # by what it is: output, gradient or buffer, and when
_equal: set[Any] = set()  # fingerprints of models found equal in this process


def check_fidelity(model: nn.Module, part_of: Callable[[nn.Module], Part], sample: torch.Tensor, always: bool) -> None:
    """Raise ModelError unless the parts that ``part_of`` makes of copies of ``model`` compute what ``model`` does.

    A model without data is not compared; without ``always`` neither is one above ``FLOPS``.
    """
    tensors = [tensor for _, tensor in registered(model)]
    if any(tensor.is_meta for tensor in tensors):
        return
    mark = (_fingerprint(model), tuple(sample.shape), sample.dtype)
    if mark in _equal or (not always and _flops(part_of(model), sample) > FLOPS):
        return
    grads = [(tensor, tensor.grad) for tensor in tensors]
    device = tensors[0].device if tensors else torch.device("cpu")
    with generators_kept(), torch.enable_grad():
        plain = _observed_plain(model, sample, device)
        part = part_of(with_data(model, device))
        found = _observed(lambda x: next(iter(part({part.inputs[0]: x}).values())), part, sample, device)
        worst, size = _worst(plain, found)
        if worst and size <= NOISE * _worst(plain, _observed_plain(model, sample, device))[1]:
            worst = ""
    for tensor, gradient in grads:  # hooks of a copy may reach the model
        tensor.grad = gradient
    if worst:
        raise ModelError(
            f"the layers do not compute what the model does: {worst} differs by {size:.3g}; set `whole = True` on the "
            "module that makes the difference, which keeps it as one layer"
        )
    _equal.add(mark)


def _observed_plain(model: nn.Module, sample: torch.Tensor, device: torch.device) -> Observed:
    copied = with_data(model, device)
    try:
        return _observed(copied, copied, sample, device)
    except Exception as error:
        raise ModelError(f"{not_taken(sample)}: {one_line(error)}") from error


def _observed(run: Callable[[torch.Tensor], Any], module: nn.Module, sample: torch.Tensor, device: Any) -> Observed:
    """Train ``module`` for two steps through ``run``, then evaluate it."""
    seen: Observed = {}
    for step, batch in enumerate(BATCHES):
        module.train()
        output = run(_seeded(step, batch, sample, device))
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
        seen["output in evaluation"] = run(_seeded(0, BATCHES[0], sample, device))
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


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if torch.equal(one, other):
        return 0.0
    apart = (one.double() - other.double()).abs()
    alike = (one == other) | (one.isnan() & other.isnan())
    return float(apart.masked_fill(alike, 0).nan_to_num(float("inf")).max())


def _flops(part: Part, sample: torch.Tensor) -> int:
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
    """Equal for models that run the same code on the same settings."""
    return tuple(
        (
            path,
            type(module),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            tuple(sorted((key, value) for key, value in vars(module).items() if isinstance(value, (int, float, str)))),
            tuple((name, tensor.shape, tensor.requires_grad) for name, tensor in _direct(module)),
        )
        for path, module in model.named_modules()
    )


def _direct(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
