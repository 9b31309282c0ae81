"""Measured costs of each layer of a network: seconds forward and backward, energy, parameters and bytes.

Everything runs in evaluation mode, since batch norm has no statistics of a single value. The forward pass is timed
without gradients, as in inference. For the backward pass the output of a layer is detached before the next ones use
it, and autograd runs layer by layer from the end: a layer's time is its own work and the addition of the gradients of
shared values. Layers run in order within a pass, so each finds the caches as the previous one left them. Loss and
optimizer are not layers. A layer's energy is its time times the average power of the passes: counters are too coarse
for one layer.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch import nn

from nodes.costs.energy import JouleCounter
from nodes.costs.workload import Inspected, Workload, inspect_chain, new_values
from nodes.errors import ModelError
from nodes.model.chain import Part, Values
from nodes.spec.job import Granularity, InputType

Clock = Callable[[], float]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of the L layers of a network. Seconds and joules are for ``batch`` pictures, bytes for one in float32."""

    layers: list[str]  # names
    boundary_bytes: list[int]  # [L+1] that a cut before layer i sends; 0 is the input, L the result
    output_bytes: list[int]  # [L] of the values that each layer makes
    forward_s: list[float]  # [L]
    backward_s: list[float]  # [L]
    parameters: list[int]  # [L] counts; a shared parameter counts at its first use, an unused one nowhere
    batch: int
    forward_j: list[float] = []  # [L] joules; empty without a counter
    backward_j: list[float] = []  # [L]

    def scaled(self, factor: float) -> "Profile":
        """The profile of a machine that is ``factor`` times slower, at the same power."""
        names = ("forward_s", "backward_s", "forward_j", "backward_j")
        longer = {name: [factor * value for value in getattr(self, name)] for name in names}
        return msgspec.structs.replace(self, **longer)


def measure_profile(
    model: nn.Module,
    input_shape: tuple[int, ...],
    granularity: Granularity = "op",
    *,
    dtype: InputType = "float32",
    batch: int = 1,
    repeats: int = 5,
    device: str = "cpu",
    clock: Clock = time.perf_counter,
    joules: JouleCounter | None = None,
) -> Profile:
    """Measure the costs of a model's layers on random samples of ``input_shape``, ``batch`` a pass.

    Tokens, of ``dtype`` int64, are 0 and 1, which every vocabulary has.

    The medians of ``repeats`` passes of each kind are taken; one more is discarded as warm-up. The model's in-place
    flags are cleared; it stays on ``device``, in evaluation mode. Raises ModelError if the model cannot be traced as a
    chain, or does not take such samples.
    """
    chain = Inspected(model, input_shape, granularity, dtype)
    workload = inspect_chain(chain)
    parts = [chain.part(index, index + 1).eval() for index in range(len(chain))]
    model.to(device).eval()
    generator, shape = torch.Generator().manual_seed(0), (batch, *input_shape)
    tokens = dtype == "int64"
    samples = torch.randint(2, shape, generator=generator) if tokens else torch.randn(shape, generator=generator)
    inputs = {chain.input: samples.to(device)}
    now = _after_kernels(clock) if inputs[chain.input].is_cuda else clock
    with torch.no_grad():
        forward_s, forward_w = _passes(lambda: _forward(parts, inputs, now)[0], repeats, now, joules)
    with torch.enable_grad():
        backward_s, backward_w = _passes(lambda: _backward(model, parts, inputs, now), repeats, now, joules)
    power_w = None if joules is None else (forward_w, backward_w)
    return profile_of(workload, batch, (forward_s, backward_s), power_w)


def profile_of(
    workload: Workload, batch: int, seconds: tuple[list[float], list[float]], power_w: tuple[float, float] | None
) -> Profile:
    """The profile of ``workload`` with ``seconds`` and average power (forward, backward); None: no energy."""
    joules = [[watts * second for second in row] for watts, row in zip(power_w or (), seconds, strict=False)]
    return Profile(
        layers=workload.layers,
        boundary_bytes=workload.boundary_bytes,
        output_bytes=workload.output_bytes,
        forward_s=seconds[0],
        backward_s=seconds[1],
        parameters=workload.parameters,
        batch=batch,
        forward_j=joules[0] if joules else [],
        backward_j=joules[1] if joules else [],
    )


def save_profile(profile: Profile, path: Path) -> None:
    """Write ``profile`` to the file ``path`` as JSON."""
    path.write_bytes(msgspec.json.encode(profile))


def load_profile(path: Path) -> Profile:
    """Read a profile from the file ``path``. Raises ModelError if it cannot be read or is inconsistent."""
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path}: {error}") from None
    layers = len(profile.layers)
    columns = msgspec.structs.asdict(profile)
    for name in ("output_bytes", "forward_s", "backward_s", "parameters"):
        if len(columns[name]) != layers:
            raise ModelError(f"{path}: {layers} layers, but {name} has {len(columns[name])} values")
    if len(profile.boundary_bytes) != layers + 1:
        raise ModelError(f"{path}: {layers} layers need {layers + 1} boundary_bytes")
    return profile


def _forward(
    parts: list[Part], values: Values, now: Clock
) -> tuple[list[float], list[list[tuple[torch.Tensor, torch.Tensor]]], Values]:
    """One pass from ``values``: seconds and [(value, leaf detached from it)] of each layer, and the result."""
    seconds, detached = [], []
    for part in parts:
        began = now()
        results = part(values)
        seconds.append(now() - began)
        made = new_values(results, values)
        leaves = {name: value.detach().requires_grad_() for name, value in made.items() if _trained(value)}
        detached.append([(made[name], leaf) for name, leaf in leaves.items()])
        values = {name: (values | made | leaves)[name] for name in part.outputs}
    return seconds, detached, values


def _backward(model: nn.Module, parts: list[Part], values: Values, now: Clock) -> list[float]:
    _, detached, results = _forward(parts, values, now)
    for result in filter(_trained, results.values()):
        result.grad = torch.ones_like(result)
    seconds = []
    while detached:
        used = [(value, leaf.grad) for value, leaf in detached.pop() if leaf.grad is not None]
        roots, gradients = [value for value, _ in used], [gradient for _, gradient in used]
        began = now()
        if roots:
            torch.autograd.backward(roots, gradients)
        seconds.append(now() - began)
    model.zero_grad(set_to_none=True)
    return seconds[::-1]


def _trained(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _after_kernels(clock: Clock) -> Clock:
    """``clock``, read after the GPU's kernels have finished."""

    def now() -> float:
        torch.cuda.synchronize()
        return clock()

    return now


def _passes(
    run: Callable[[], list[float]], repeats: int, now: Clock, joules: JouleCounter | None
) -> tuple[list[float], float]:
    """Median seconds of each layer over ``repeats`` passes, after one as warm-up, and the average power in watts."""
    run()
    began, before = now(), joules() if joules else 0.0
    passes = [run() for _ in range(repeats)]
    spent_j = joules() - before if joules else 0.0
    power_w = spent_j / (now() - began) if spent_j else 0.0
    return [statistics.median(seconds) for seconds in zip(*passes, strict=True)], power_w
