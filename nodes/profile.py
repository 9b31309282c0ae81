"""What does each layer of a network cost? Seconds forward and backward, parameters, and bytes at its cuts.

Everything runs in evaluation mode, since batch norm has no statistics of a single value. The forward pass is
timed without gradients, as inference runs it. For the backward pass what a layer makes is detached before the
next ones use it, and autograd runs layer by layer from the end: so a layer's time is that of its own work
and of adding up the gradients of values it shares. Layers run one after the other within a pass, so each
finds the caches as the one before left them. The loss and the optimizer are no layers.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import msgspec
import torch
from torch import nn

from nodes.boundary import boundary_bytes
from nodes.job import Timing
from nodes.models import Chain, Granularity, Part, Values
from nodes.place import place

Clock = Callable[[], float]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What the L layers of a network cost. Seconds are for ``batch`` pictures, bytes for one in float32."""

    layers: list[str]  # names
    boundary_bytes: list[int]  # [L+1] what a cut before layer i sends; 0 the input, L the result
    output_bytes: list[int]  # [L] what each layer itself adds to that
    forward_s: list[float]  # [L]
    backward_s: list[float]  # [L]
    parameters: list[int]  # [L] counts; a shared one at its first use, one that no layer uses nowhere
    batch: int


def measure(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    granularity: Granularity = "op",
    *,
    batch: int = 1,
    repeats: int = 5,
    device: str = "cpu",
    clock: Clock = time.perf_counter,
) -> Profile:
    """Profile ``model`` on ``batch`` random pictures of ``input_shape`` (C, H, W).

    Seconds are medians of ``repeats`` passes of each kind; one more before them is discarded. Clears the
    in-place flags of ``model``, moves it to ``device`` and leaves it there in evaluation mode, without
    gradients. Raises ModelError for a model that cannot be made a chain.
    """
    chain = _Inspected(model, input_shape, granularity)
    parts = [chain.part(index, index + 1) for index in range(len(chain))]
    crossing = [chain.shapes(index) for index in range(len(chain) + 1)]
    model.to(device).eval()
    pictures = torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(0))
    inputs = {chain.input: pictures.to(device)}
    now = _after_kernels(clock) if inputs[chain.input].is_cuda else clock
    with torch.no_grad():
        forward_s = _medians(_forward(parts, inputs, now)[0] for _ in range(1 + repeats))
    with torch.enable_grad():
        backward_s = _medians(_backward(model, parts, inputs, now) for _ in range(1 + repeats))
    return Profile(
        layers=chain.names,
        boundary_bytes=[boundary_bytes(values) for values in crossing],
        output_bytes=[boundary_bytes(_new(after, before)) for before, after in pairwise(crossing)],
        forward_s=forward_s,
        backward_s=backward_s,
        parameters=_parameters(parts),
        batch=batch,
    )


def timings(profile: Profile, splits: Sequence[int], batch: int) -> list[Timing]:
    """What ``batch`` pictures cost each of P nodes; ``splits`` [P-1] are the layers done when leaving each.

    Seconds grow in proportion to the pictures: exact for the batch that was profiled, an estimate for others.
    Raises ModelError for splits that do not fit the layers.
    """
    scale = batch / profile.batch
    places = [place(tuple(splits), node, len(profile.layers)) for node in range(len(splits) + 1)]
    return [
        Timing(
            forward_s=scale * sum(profile.forward_s[held.start : held.stop]),
            backward_s=scale * sum(profile.backward_s[held.start : held.stop]),
        )
        for held in places
    ]


class _Inspected(Chain):
    """A chain whose layers are only looked at, so that even those which share parameters may stand alone."""

    def check_part(self, start: int, stop: int) -> None:
        pass


def _forward(
    parts: list[Part], values: Values, now: Clock
) -> tuple[list[float], list[list[tuple[torch.Tensor, torch.Tensor]]], Values]:
    """One pass from ``values`` on: seconds of each layer, [(value, leaf)] of each layer, and the result.

    Where a layer makes a value that requires grad, the layers behind it are given a leaf detached from it.
    """
    seconds, detached = [], []
    for part in parts:
        arguments = [values[name] for name in part.inputs]
        began = now()
        results = part.body(*arguments)
        seconds.append(now() - began)
        made = _new(dict(zip(part.outputs, results, strict=True)), values)
        leaves = {name: value.detach().requires_grad_() for name, value in made.items() if _trained(value)}
        detached.append([(made[name], leaf) for name, leaf in leaves.items()])
        values = {name: (values | made | leaves)[name] for name in part.outputs}
    return seconds, detached, values


def _backward(model: nn.Module, parts: list[Part], values: Values, now: Clock) -> list[float]:
    """Seconds of each layer in a backward pass whose gradient of the result is ones."""
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


def _new(values: Values, known: Values) -> Values:
    return {name: value for name, value in values.items() if name not in known}


def _trained(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _after_kernels(clock: Clock) -> Clock:
    """``clock``, read when all that was given to the GPU is done."""

    def now() -> float:
        torch.cuda.synchronize()
        return clock()

    return now


def _medians(passes: Iterable[list[float]]) -> list[float]:
    """The median of each layer over ``passes`` but the first."""
    _, *counted = passes
    return [statistics.median(seconds) for seconds in zip(*counted, strict=True)]


def _parameters(parts: list[Part]) -> list[int]:
    """How many numbers each layer is the first to use as parameters."""
    counts, seen = [], set[nn.Parameter]()
    for part in parts:
        own = set(part.parameters()) - seen
        seen |= own
        counts.append(sum(parameter.numel() for parameter in own))
    return counts
