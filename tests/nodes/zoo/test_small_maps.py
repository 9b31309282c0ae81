"""Convolutions as matrix products against torch's own: outputs, gradients, training, and how much is multiplied."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from nodes.model.factory import build_model, outline
from nodes.zoo.resnet import thin_resnet18
from nodes.zoo.small_maps import SmallMapConv2d, folded


def results(layer: nn.Module, maps: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of the input and the parameters for one random direction."""
    given_maps = maps.clone().requires_grad_()
    made = layer(given_maps)
    direction = torch.randn(made.shape, generator=torch.Generator().manual_seed(3), dtype=made.dtype)
    layer.zero_grad()
    (made * direction).sum().backward()
    found = [made, given_maps.grad, *(parameter.grad for parameter in layer.parameters())]
    return [value.detach() for value in found if value is not None]


@given(data=st.data())
def test_any_geometry_gives_what_a_convolution_gives(data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), label="kernel")
    padding = data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6)), label="padding")
    size = [data.draw(st.integers(max(1, k - 2 * p), 6), label="size") for k, p in zip(kernel, padding, strict=True)]
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label="stride")
    groups = data.draw(st.sampled_from([1, 1, 1, 2]), label="groups")
    mode = data.draw(st.sampled_from(["zeros", "zeros", "zeros", "replicate"]), label="mode")
    torch.manual_seed(7)
    plain = nn.Conv2d(
        *(4, 6, kernel, stride, padding, 1, groups, data.draw(st.booleans(), label="bias"), mode)
    ).double()
    model = folded(nn.Sequential(copy.deepcopy(plain)))
    assert type(model.get_submodule("0")) is (nn.Conv2d if kernel == (1, 1) else SmallMapConv2d)
    maps = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if data.draw(st.booleans(), label="channels last"):
        maps = maps.contiguous(memory_format=torch.channels_last)
    for ours, torchs in zip(results(model, maps), results(plain, maps), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)


def test_twenty_steps_of_a_network_are_those_of_torchs_convolutions() -> None:
    torch.manual_seed(2)
    plain = thin_resnet18().double()
    ours = folded(copy.deepcopy(plain))
    assert sum(isinstance(layer, SmallMapConv2d) for layer in ours.modules()) == 17
    generator = torch.Generator().manual_seed(5)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.01) for model in (plain, ours)]
    for _ in range(20):
        pictures = torch.randn(8, 3, 32, 32, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 10, (8,), generator=generator)
        for model, optimizer in zip((plain, ours), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures), labels).backward()
            optimizer.step()
    expected = plain.state_dict()
    assert list(expected) == list(ours.state_dict())
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_the_resnet_is_torchvisions_with_two_thirds_of_the_multiplications() -> None:
    ours, plain = (build_model(name, 10, (3, 32, 32), seed=4) for name in ("folded_resnet18", "resnet18"))
    assert type(plain) is type(resnet18())
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in plain.state_dict().items())
    counts = []
    for model in (ours, plain):
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            model.to("meta").eval()(torch.empty(1, 3, 32, 32))
        counts.append(counter.get_total_flops() / 2)
    # Of 2x2 maps 16 of 36 products are left, of one pixel 1 of 9, and 4 of 9 where the stride makes one pixel of four.
    wide, wider = 256 * 256, 512 * 512
    saved = 3 * (36 - 16) * wide + (9 - 4) * 256 * 512 + 3 * (9 - 1) * wider
    assert counts[1] - counts[0] == saved
    assert [round(count / 1e6) for count in counts] == [26, 37]


@pytest.mark.parametrize(("ours", "plain"), [("", "resnet18"), ('{"groups": 32}', "group_resnet18")])
def test_the_folded_resnet_is_cut_where_the_plain_one_is(ours: str, plain: str) -> None:
    chain, other = (outline(name, 10, (3, 32, 32)) for name in (f"folded_resnet18{ours}", plain))
    assert chain.names == other.names
    assert [value.shape for value in chain.shapes(5).values()] == [value.shape for value in other.shapes(5).values()]
