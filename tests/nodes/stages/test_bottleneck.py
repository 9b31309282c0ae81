"""Coders against counts by hand, quantisation and packing against plain integers."""

import math
import random

import pytest
import torch
from torch import nn

from nodes.stages import bottleneck
from nodes.stages.bottleneck import Geometry, decoder, encoder, from_levels, pack, to_levels, unpack


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_coders_hold_the_parameters_counted_by_hand():
    total = 0
    for channels in (12, 2):
        convolution, norm = 256 * channels * 2 * 2 + channels, 2 * channels
        up, norm_up = channels * 256 * 2 * 2 + 256, 2 * 256
        assert parameters(encoder(256, channels)) == convolution + norm
        assert parameters(decoder(channels, 256, (8, 8))) == up + norm_up
        total += convolution + norm + up + norm_up
    assert total == 30_250


DEPRUNE = [Geometry(kernel=2 + r, stride=r, padding=r) for r in (1, 2, 4)]


@pytest.mark.parametrize("geometry", [Geometry(), Geometry(1, 1, 0), Geometry(3, 1, 1), *DEPRUNE], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (16, 12), (7, 9)])
def test_a_decoder_gives_the_size_that_its_encoder_took(geometry, size):
    given = torch.randn(3, 6, *size, generator=torch.Generator().manual_seed(0))
    try:
        decode = decoder(2, 6, size, geometry)
    except ValueError:
        assert any((side - geometry.kernel + 2 * geometry.padding) % geometry.stride for side in size)
        return
    code = encoder(6, 2, geometry)(given)
    assert code.shape == (3, 2, *map(geometry.code_side, size))
    assert 0 < code.min() < code.max() < 1
    restored = decode(code)
    assert restored.shape == given.shape
    assert restored.min() >= 0


@pytest.mark.parametrize("geometry", [Geometry(9, 1, 0), Geometry(0, 1, 0), Geometry(2, 0, 0), Geometry(2, 2, -1)])
def test_a_window_without_a_code_is_refused(geometry):
    with pytest.raises(ValueError, match="8 pixels give no code"):
        geometry.code_side(8)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_even_and_nearest(bits):
    top = 2**bits - 1
    exact = [k / top for k in range(top + 1)]
    assert to_levels(torch.tensor(exact), bits).tolist() == list(range(top + 1))
    assert from_levels(torch.arange(top + 1, dtype=torch.uint8), bits).tolist() == torch.tensor(exact).tolist()
    code = torch.rand(500, generator=torch.Generator().manual_seed(1))
    near = from_levels(to_levels(code, bits), bits)
    assert (near - code).abs().max() <= 0.5 / top + 1e-6
    assert to_levels(torch.tensor([-0.1, 1.1, math.inf]), bits).tolist() == [0, top, top]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradient_passes_straight_through_the_levels(bits):
    code = torch.rand(40, generator=torch.Generator().manual_seed(2)).requires_grad_()
    bottleneck.quantise_straight_through(code, bits).pow(2).sum().backward()
    assert torch.equal(code.grad, 2 * from_levels(to_levels(code.detach(), bits), bits))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 3, 8, 33])
def test_packing_is_one_long_binary_number_a_row(bits, count):
    draw = random.Random(bits * count)
    rows = [[draw.randrange(2**bits) for _ in range(count)] for _ in range(4)]
    packed = pack(torch.tensor(rows, dtype=torch.uint8), bits)
    by_hand = [sum(number << (bits * place) for place, number in enumerate(row)) for row in rows]
    size = math.ceil(count * bits / 8)
    assert size == bottleneck.packed_bytes(count, bits)
    assert [bytes(row) for row in packed.tolist()] == [number.to_bytes(size, "little") for number in by_hand]
    assert unpack(packed, bits, count).tolist() == rows


def test_packing_needs_shapes_alone_and_no_rows_are_no_bytes():
    packed = pack(torch.empty(5, 33, dtype=torch.uint8, device="meta"), 4)
    assert packed.shape == (5, 17)
    assert unpack(packed, 4, 33).shape == (5, 33)
    assert pack(torch.empty(0, 6, dtype=torch.uint8), 4).shape == (0, 3)
    assert unpack(torch.empty(0, 3, dtype=torch.uint8), 4, 6).shape == (0, 6)


@pytest.mark.parametrize("packed", [torch.zeros(2, 4, dtype=torch.uint8), torch.zeros(2, 3), torch.zeros(3).byte()])
def test_rows_of_another_length_or_kind_are_refused(packed):
    with pytest.raises(ValueError, match="3 bytes a row, for 6 numbers of 4 bits"):
        unpack(packed, 4, 6)
