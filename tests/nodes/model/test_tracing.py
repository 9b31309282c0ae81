"""Networks that a plain trace would silently change, in parts, against plain PyTorch over two steps."""

import copy
import random

import crossing
import pytest
import torch
from awkward_models import EXACT, ChangedSlice
from plain_oracle import SHAPE, assert_equals_plain, seed_all
from user_models import DROPPED, Drops

from nodes.model.chain import Chain, Moment


@pytest.mark.parametrize("name", EXACT)
def test_parts_equal_plain_pytorch(name):
    make, kept = EXACT[name]
    assert_equals_plain(make, lambda layers: range(1, layers), kept)
    for seed in (1, 2):
        assert_equals_plain(
            make, lambda layers, seed=seed: sorted(random.Random(seed).sample(range(1, layers), 2)), kept
        )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_slice_changed_in_place_equals_plain_pytorch_in_any_memory_format(memory_format):
    torch.manual_seed(1)
    model = ChangedSlice().to(memory_format=memory_format)
    crossing.assert_equals_plain(model, 4, [[], [1], [3]])


@pytest.mark.parametrize("name", ["noise", "checkpoint, new", "numpy's noise", "root hooks", "autocast"])
def test_the_plain_model_draws_what_its_parts_draw(name):
    seed_all(1)
    chain = Chain(EXACT[name][0](), SHAPE)
    plain, part = chain.plain().train(), copy.deepcopy(chain.part(0, len(chain))).train()
    x = torch.randn(3, *SHAPE)
    moments = [Moment(5, step) for step in (0, 1, 0)]
    one, other, again = (plain({chain.input: x}, moment)[chain.output] for moment in moments)
    assert torch.equal(one, part({chain.input: x}, moments[0])[chain.output])
    assert torch.equal(other, part({chain.input: x}, moments[1])[chain.output])
    assert torch.equal(one, again)


@pytest.mark.parametrize("how", DROPPED)
def test_the_plain_model_draws_in_its_own_forward_what_its_parts_draw(how):
    chain = Chain(Drops(how), (3, 6, 6))
    plain, part = chain.plain().train(), chain.part(0, len(chain)).train()
    x = torch.randn(3, 3, 6, 6)
    for step in (0, 1):
        values = ({chain.input: x}, Moment(5, step))
        assert torch.equal(plain(*values)[chain.output], part(*values)[chain.output])
