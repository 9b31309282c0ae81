"""What a layer costs: its own seconds by a clock that layers move, sizes by hand, parameters once."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from nodes.costs.energy import constant_power
from nodes.costs.profile import Profile, load_profile, measure_profile, save_profile
from nodes.errors import ModelError
from nodes.model.factory import build_model


class Clock:
    """Shows the seconds that layers say they took."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Cost(torch.autograd.Function):
    """The identity; its backward pass moves the clock."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, clock: Clock, backward_s: Iterator[float]) -> torch.Tensor:
        ctx.clock, ctx.backward_s = clock, backward_s
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.clock.seconds += next(ctx.backward_s)
        return gradients[0], None, None


def costs(layer: nn.Module, clock: Clock, forward_s: Iterator[float], backward_s: Iterator[float]) -> None:
    """Let ``layer`` take these seconds, pass by pass: forward where no gradient is wanted, and backward."""

    def hook(_layer: nn.Module, _inputs: Any, result: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() and not result.is_meta:
            clock.seconds += next(forward_s)
        return Cost.apply(result, clock, backward_s)

    layer.register_forward_hook(hook)


class Residual(nn.Module):
    """Pictures (1, 2, 2): ``a``, then ``b`` with a connection around it, then ``c`` on both halves of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 1)
        self.b = nn.Conv2d(4, 4, 1)
        self.c = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = x + self.b(x)
        one, two = x.flatten(1).chunk(2, 1)
        return self.c(one) + self.c(two) * self.scale


SHAPE = (1, 2, 2)


def test_seconds_are_those_of_the_layer_alone():
    clock, model = Clock(), Residual()
    costs(model.a, clock, repeat(1.0), repeat(10.0))
    costs(model.b, clock, repeat(2.0), repeat(20.0))
    costs(model.c, clock, repeat(4.0), repeat(40.0))
    profile = measure_profile(model, SHAPE, clock=clock)
    assert profile.layers == ["a", "b", "add", "flatten", "chunk", "c", "c#2", "mul", "add_1"]
    assert profile.forward_s == [1, 2, 0, 0, 0, 4, 4, 0, 0]
    assert profile.backward_s == [10, 20, 0, 0, 0, 40, 40, 0, 0]


def test_the_median_of_the_passes_but_the_first():
    clock, model = Clock(), nn.Sequential(nn.Linear(4, 4))
    costs(model[0], clock, iter([100.0, 1.0, 9.0, 2.0]), iter([100.0, 30.0, 80.0, 10.0]))
    profile = measure_profile(model, (1, 1, 4), repeats=3, clock=clock)
    assert (profile.forward_s, profile.backward_s) == ([2.0], [30.0])


def test_what_cannot_run_backward_as_it_is_can_be_profiled_and_stays_as_it_was():
    clock, model = Clock(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    for layer in model:
        costs(layer, clock, repeat(1.0), repeat(5.0))
    assert measure_profile(model, (1, 1, 4), clock=clock).backward_s == [0.0, 5.0]
    assert all(parameter.grad is None for parameter in model.parameters())
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    profile = measure_profile(model, (1, 1, 1), repeats=1)
    assert min(profile.forward_s + profile.backward_s) > 0
    assert model[1].num_batches_tracked == 0


def test_layer_by_layer_the_whole_gradient_is_computed():
    torch.manual_seed(0)
    model, inputs, gradients = Residual(), [], {}
    model.a.register_forward_pre_hook(lambda _layer, given: inputs.append(given[0]))
    hooks = [
        parameter.register_hook(lambda gradient, name=name: gradients.setdefault(name, []).append(gradient))
        for name, parameter in model.named_parameters()
    ]
    measure_profile(model, SHAPE, repeats=1)
    for hook in hooks:
        hook.remove()
    result = model(inputs[-1])
    result.backward(torch.ones_like(result))
    for name, parameter in model.named_parameters():
        # two passes; c is called twice in each, and each call gives its share
        assert torch.allclose(sum(gradients[name]) / 2, parameter.grad), name


def test_bytes_are_of_what_lives_each_storage_once_and_a_parameter_counts_where_it_is_used_first():
    profile = measure_profile(Residual(), SHAPE, batch=3, repeats=1)
    four = 4 * 2 * 2 * 4  # bytes of one picture's four float32 maps
    half, logits = four // 2, 12
    # Behind b live b's result and the value around it; a flattened value and its chunks have one storage.
    behind_c = half + logits
    assert profile.boundary_bytes == [*(16, four, 2 * four, four, four, four, behind_c, 2 * logits, 2 * logits, logits)]
    assert profile.output_bytes == [four, four, four, four, four, logits, logits, logits, logits]
    assert profile.parameters == [8, 20, 0, 0, 0, 27, 0, 1, 0]


@pytest.mark.parametrize(
    ("name", "granularity"),
    [("resnet18", "op"), ("resnet18", "module"), ("mobilenet_v2", "module"), ("vit_b_16", "op")],
)
def test_published_networks(name, granularity):
    with torch.device("meta"):
        model = build_model(name, 10, (3, 32, 32))
    profile = measure_profile(model, (3, 32, 32), granularity, repeats=1, device="meta")
    layers = len(profile.layers)
    assert (profile.boundary_bytes[0], profile.boundary_bytes[-1]) == (3 * 32 * 32 * 4, 10 * 4)
    assert {len(profile.forward_s), len(profile.backward_s), len(profile.parameters)} == {layers}
    assert len(profile.boundary_bytes) == layers + 1
    assert sum(profile.parameters) == sum(parameter.numel() for parameter in model.parameters())


PROFILE = Profile(
    **{"layers": ["a", "b", "c"], "boundary_bytes": [1] * 4, "output_bytes": [1] * 3, "parameters": [0] * 3},
    **{"forward_s": [1.0, 2.0, 4.0], "backward_s": [10.0, 20.0, 40.0], "batch": 2},
)


def test_energy_is_a_layers_time_at_the_power_of_its_passes():
    clock, model = Clock(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    costs(model[0], clock, repeat(1.0), repeat(2.0))
    costs(model[1], clock, repeat(3.0), repeat(2.0))
    profile = measure_profile(model, (1, 1, 4), clock=clock, joules=constant_power(10.0, clock))
    assert profile.forward_j == pytest.approx([10.0, 30.0])
    assert profile.backward_j == pytest.approx([20.0, 20.0])
    assert measure_profile(model, (1, 1, 4), clock=clock).forward_j == []


def test_profiles_are_saved_and_loaded_whole_or_not_at_all(tmp_path):
    path = tmp_path / "profile.json"
    save_profile(PROFILE, path)
    assert load_profile(path) == PROFILE
    save_profile(replace(PROFILE, forward_s=[1.0]), path)
    with pytest.raises(ModelError, match="3 layers, but forward_s has 1 values"):
        load_profile(path)
    path.write_text("{}")
    with pytest.raises(ModelError, match=r"profile\.json"):
        load_profile(path)
