"""VGG-11's cuts as the paper numbers them, its size, and its folded form against the whole network."""

import pytest
import torch
from torch import nn

from nodes.model.factory import build_model, outline
from nodes.zoo.vgg import OnePixel, folded_vgg11, layers_before, vgg11


@pytest.mark.parametrize(
    ("cut", "shape"),
    [(0, (3, 32, 32)), (5, (128, 8, 8)), (6, (256, 8, 8)), (7, (256, 8, 8)), (9, (512, 4, 4)), (14, (512, 1, 1))],
)
def test_cuts_count_pools(cut, shape):
    chain = outline("nodes.zoo.vgg:vgg11", 10, (3, 32, 32))
    ((_, boundary),) = chain.shapes(layers_before(cut)).items()
    assert tuple(boundary.shape[1:]) == shape


def test_parameters_of_the_whole_and_of_narrower_networks():
    counts = [
        sum(parameter.numel() for parameter in outline(f"nodes.zoo.vgg:{name}", 10, (3, 32, 32)).model.parameters())
        for name in ("vgg11", "half_vgg11", "small_vgg11", "tiny_vgg11")
    ]
    assert counts[0] == 128_812_810
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("cut", [-1, 1, 15])
def test_cuts_that_are_none(cut):
    with pytest.raises(ValueError, match="cut"):
        layers_before(cut)


def folded_by_hand(whole: nn.Sequential, shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of ``whole`` with the columns of its first linear layer summed map by map, over 7."""
    state = whole.state_dict()
    (name,) = (name for name in state if state[name].shape != shapes[name].shape)
    columns = state[name].reshape(len(state[name]), -1, 49)
    return state | {name: sum(columns[:, :, place] for place in range(49)) / 7}


def slim_pair() -> tuple[nn.Sequential, nn.Sequential]:
    """Both networks at 1/16 of the width in float64, so that only rounding tells them apart."""
    torch.manual_seed(11)
    whole, narrow = vgg11(10, 1 / 16).double(), folded_vgg11(10, 1 / 16).double()
    narrow.load_state_dict(folded_by_hand(whole, narrow.state_dict()))
    return whole, narrow


def difference(whole: nn.Sequential, narrow: nn.Sequential) -> float:
    """The largest between the networks' parameters and buffers."""
    found = narrow.state_dict()
    expected = folded_by_hand(whole, found)
    return max(float((expected[name] - found[name]).abs().max()) for name in found)


def trained(
    network: nn.Sequential, optimizer: torch.optim.Optimizer, clip: float | None = None, steps: int = 20
) -> list[float]:
    generator = torch.Generator().manual_seed(5)
    losses = []
    for step in range(steps):
        pictures = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 10, (6,), generator=generator)
        torch.manual_seed(step)  # dropout
        loss = nn.functional.cross_entropy(network(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_folded_network_has_the_outputs_of_the_whole_one() -> None:
    whole, narrow = slim_pair()
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(narrow.eval()(pictures), whole.eval()(pictures), rtol=1e-12, atol=1e-13)


def test_both_networks_draw_the_same_parameters_from_a_seed() -> None:
    pair = []
    for make in (vgg11, folded_vgg11):
        torch.manual_seed(11)
        pair.append(make(10, 1 / 16))
    assert difference(*pair) < 1e-7


@pytest.mark.parametrize(("nesterov", "clip"), [(False, None), (True, 0.5)])
def test_twenty_steps_with_momentum_and_decay_train_both_alike(nesterov: bool, clip: float | None) -> None:
    whole, narrow = slim_pair()
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-2, "nesterov": nesterov}
    losses = [trained(one, torch.optim.SGD(one.parameters(), **settings), clip) for one in (whole, narrow)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert difference(whole, narrow) < 1e-9


def test_without_the_factor_the_layer_needs_49_times_the_rate_and_a_49th_of_the_decay() -> None:
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-2}
    whole, _ = slim_pair()
    expected = trained(whole, torch.optim.SGD(whole.parameters(), **settings), steps=5)
    for factor, alike in ((49, True), (1, False)):
        _, narrow = slim_pair()
        layer = next(one for one in narrow if isinstance(one, nn.Linear))
        with torch.no_grad():
            layer.weight *= 7  # the sum of the columns itself
        next(one for one in narrow if isinstance(one, OnePixel)).factor = 1
        others = [one for one in narrow.parameters() if one is not layer.weight]
        own = {"params": [layer.weight], "lr": 0.05 * factor, "weight_decay": 5e-2 / factor}
        losses = trained(narrow, torch.optim.SGD([{"params": others}, own], **settings), steps=5)
        assert (losses == pytest.approx(expected, rel=1e-6)) == alike


def test_with_adam_it_is_another_network() -> None:
    losses = [trained(one, torch.optim.Adam(one.parameters(), 0.01), steps=5) for one in slim_pair()]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-9)
    assert losses[1][-1] != pytest.approx(losses[0][-1], rel=1e-3)


def test_the_folded_network_has_28_million_parameters_and_takes_pictures_of_32_pixels_alone() -> None:
    with torch.device("meta"):
        folded = build_model("folded_vgg11", 10, (3, 32, 32))
        whole = build_model("full_vgg11", 10, (3, 32, 32))
    counts = [sum(parameter.numel() for parameter in one.parameters()) for one in (folded, whole)]
    assert counts == [28_149_514, 128_812_810]
    with pytest.raises(ValueError, match="folded_vgg11 needs pictures of 32x32"):
        folded(torch.empty(1, 3, 64, 64, device="meta"))
