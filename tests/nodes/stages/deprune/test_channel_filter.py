"""Deprune's filter against its formulas written out, budgets by brute force, resetting, coders of kept maps alone."""

import copy
import math

import pytest
import torch
from torch import nn

from nodes.stages.bottleneck import Geometry, decoder, encoder
from nodes.stages.deprune.channel_filter import ChannelFilter, prune_loss, strongest_maps
from nodes.stages.deprune.kept_maps import decode_maps, encode_maps
from nodes.stages.deprune.quantiser import dequantise, quantise
from nodes.stages.deprune.stage import Pruned


@pytest.mark.parametrize(("budget", "barrier"), [(4, 1.0), (32, 0.5), (100, 0.0)])
def test_eq_1_and_its_gradient(budget, barrier):
    strengths = torch.rand(128, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    loss = prune_loss(strengths, budget, 0.01, barrier)
    excess = 0.01 * (sum(strengths.tolist()) - budget)
    assert loss.item() == pytest.approx(math.exp(excess) + barrier * math.exp(-excess), rel=1e-12)
    loss.backward()
    slope = 0.01 * (math.exp(excess) - barrier * math.exp(-excess))
    assert strengths.grad.tolist() == pytest.approx([slope] * 128, rel=1e-12)


@pytest.mark.parametrize("budget", [1, 4, 127, 128])
def test_the_strongest_are_those_that_fewer_than_b_exceed_and_the_first_of_equals(budget):
    strengths = torch.rand(128, generator=torch.Generator().manual_seed(1))
    values = strengths.tolist()
    expected = [i for i in range(128) if sum(other > values[i] for other in values) < budget]
    assert strongest_maps(strengths, budget).tolist() == expected
    assert strongest_maps(torch.tensor([0.5, 0.9, 0.5, 0.5]), 3).tolist() == [0, 1, 2]


def test_maps_left_out_keep_their_order_under_eq_1_alone():
    maps = ChannelFilter(32)
    order = maps.f_hat.argsort().tolist()
    optimizer = torch.optim.SGD(maps.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(200):
        (1000 * prune_loss(maps(), 1, 0.01, 1.0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert maps().sum() < 12
    assert maps.f_hat.argsort().tolist() == order


def test_renumbered_maps_train_alike_so_that_from_scratch_all_are_exchangeable():
    torch.manual_seed(0)
    one = Pruned({"x": torch.empty(1, 8, 4, 4, device="meta")}, phases=[[1, 1 / 4]], delta=0.1, epsilon=2.0).double()
    other, order = copy.deepcopy(one), torch.randperm(8)
    with torch.no_grad():
        into = other.receiver["decoder"][0].weight
        for rows in (*other.sender["encoder"].parameters(), other.sender["filter"].f_hat, into):
            rows.copy_(rows[order])
    values, wanted = torch.randn(6, 8, 4, 4).double(), torch.randn(6, 8, 4, 4).double()
    for _ in range(4):
        losses = []
        for stage in (one, other):
            codes, budget_loss = stage.compress({"x": values})
            loss = (stage.restore(codes)["x"] - wanted).square().mean() + budget_loss
            stage.zero_grad()
            loss.backward()
            torch.optim.SGD(stage.parameters(), lr=0.5).step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
        assert set(order[other.which()].tolist()) == set(one.which().tolist())
    assert not torch.equal(one.which(), other.which())


@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("which", [[0], [1, 4, 5], list(range(8))])
def test_kept_maps_are_those_of_all_maps_with_the_others_zero(r, which):
    torch.manual_seed(4)
    geometry = Geometry(2 + r, r, r)
    coders = nn.ModuleList([encoder(8, 8, geometry, sigmoid=False), decoder(8, 8, (8, 8), geometry)]).double()
    whole, chosen = copy.deepcopy(coders), torch.tensor(which)
    for training in (True, False):
        coders.train(training)
        whole.train(training)
        value = torch.randn(5, 8, 8, 8, dtype=torch.float64)
        maps = encode_maps(coders[0], value, chosen)
        mask = torch.zeros(8, dtype=torch.float64).index_fill(0, chosen, 1).view(1, -1, 1, 1)
        expected = whole[0](value)
        torch.testing.assert_close(maps, expected[:, chosen])
        result, wanted = decode_maps(coders[1], maps, chosen), whole[1](expected * mask)
        torch.testing.assert_close(result, wanted)
        if training:
            result.square().sum().backward()
            wanted.square().sum().backward()
            for one, other in zip(coders.parameters(), whole.parameters(), strict=True):
                torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(coders[0][1].buffers(), whole[0][1].buffers(), strict=True):
        kept = ... if one.ndim == 0 else chosen
        torch.testing.assert_close(one[kept], other[kept])


@pytest.mark.parametrize(("r", "side", "coded"), [(1, 8, 8), (2, 8, 5), (3, 8, 4), (3, 4, 2), (2, 32, 17), (3, 32, 12)])
def test_the_coders_geometry_is_the_papers(r, side, coded):
    geometry = Geometry(2 + r, r, r)
    code = encoder(3, 3, geometry, sigmoid=False)(torch.randn(2, 3, side, side))
    assert code.shape == (2, 3, coded, coded)
    assert decoder(3, 3, (side, side), geometry)(code).shape == (2, 3, side, side)
    assert [type(layer) for layer in encoder(3, 3, geometry, sigmoid=False)] == [nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 3)])
def test_quantising_errs_by_half_a_level_of_the_maps_own_range(bits, shape):
    scales = torch.tensor([1.0, 50.0, 1e-3]).view(1, 3, *[1] * (len(shape) - 2))
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * scales
    rows, ranges = quantise(maps, bits)
    assert rows.dtype == torch.uint8
    assert rows.shape == (6, -(-math.prod(shape[1:]) * bits // 8))
    found = dequantise(rows, ranges, bits, shape[1:])
    for number in range(3):
        one = maps[:, number]
        level = (one.max() - one.min()) / (2**bits - 1)
        assert (found[:, number] - one).abs().max() <= level / 2 * 1.001
    with pytest.raises(ValueError, match="ranges"):
        dequantise(rows, ranges[:2], bits, shape[1:])
    one_value = torch.full(shape, 0.7)
    assert torch.equal(dequantise(*quantise(one_value, bits), bits, shape[1:]), one_value)
