"""Unrolled recurrent networks: a real one in parts, and its bytes."""

import copy
import itertools

import pytest
import torch

from nodes.errors import ModelError
from nodes.model.boundary import boundary_bytes, pack, unpack
from nodes.model.chain import Chain
from nodes.model.factory import build_model
from nodes.splitting.recurrent import unrolled_bytes
from nodes.zoo.small_cnn import SequenceLabeller


def labeller(steps: int, cells: int) -> SequenceLabeller:
    torch.manual_seed(4)
    return SequenceLabeller(steps=steps, features=6, hidden=5, cells=cells, classes=3)


def in_parts(chain: Chain, ends: list[int], sequences: torch.Tensor) -> torch.Tensor:
    values = {chain.input: sequences}
    for start, stop in itertools.pairwise([0, *ends, len(chain)]):
        tensors, views, integers = pack(values)
        sent = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        values = copy.deepcopy(chain.part(start, stop)).eval()(unpack(sent, views, integers))
    return values[chain.output]


def test_every_cut_of_a_small_labeller_and_some_of_one_of_200_steps_are_the_whole_bit_for_bit() -> None:
    model = build_model("nodes.zoo.small_cnn:sequence_labeller", 10, (1, 200, 64), seed=2).eval()
    sequences = torch.randn(2, 1, 200, 64, generator=torch.Generator().manual_seed(1))
    whole = copy.deepcopy(model)(sequences)
    assert whole.shape == (2, 200, 10)
    chain = Chain(model, (1, 200, 64))
    assert len(chain) == 2 + 200 * 2 + 1
    assert torch.equal(in_parts(chain, [77, 78, 260], sequences), whole)
    model = labeller(steps=3, cells=2).eval()
    sequences = torch.randn(2, 1, 3, 6, generator=torch.Generator().manual_seed(1))
    whole = copy.deepcopy(model)(sequences)
    chain = Chain(model, (1, 3, 6))
    for end in range(1, len(chain)):
        assert torch.equal(in_parts(chain, [end], sequences), whole)


def test_the_labeller_is_torchs_gru_with_a_read_out() -> None:
    model = labeller(steps=7, cells=2)
    reference = torch.nn.GRU(6, 5, num_layers=2, batch_first=True)
    with torch.no_grad():
        for number, cell in enumerate(model.cells):
            for name, parameter in cell.named_parameters():
                getattr(reference, f"{name}_l{number}").copy_(parameter)
        sequences = torch.randn(2, 1, 7, 6, generator=torch.Generator().manual_seed(1))
        expected = model.readout(reference(sequences[:, 0])[0])
        torch.testing.assert_close(model(sequences), expected)


def test_shared_parameters_that_train_still_cannot_be_cut() -> None:
    with pytest.raises(ModelError, match="share trained parameters"):
        Chain(labeller(steps=2, cells=1).requires_grad_(True), (1, 2, 6)).part(0, 3)


@pytest.mark.parametrize(("steps", "cells"), [(1, 1), (2, 1), (5, 1), (1, 3), (4, 2)])
def test_unrolled_bytes_are_those_at_the_boundaries_of_the_real_chain(steps: int, cells: int) -> None:
    chain = Chain(labeller(steps, cells), (1, steps, 6))
    at_boundaries = [boundary_bytes(chain.shapes(index)) for index in range(2, len(chain))]
    assert unrolled_bytes(steps, 4 * 6, [4 * 5] * cells, 4 * 3) == at_boundaries
