"""Coders fitted to activations give them back better than those that were not, through the wire's own levels."""

import torch

from nodes.stages.bottleneck import decoder, encoder, from_levels, to_levels
from nodes.stages.dynsplit.pretraining import pretrain


def activations(count: int) -> torch.Tensor:
    """Six channels of which two decide all."""
    generator = torch.Generator().manual_seed(1)
    two = torch.rand(count, 2, 4, 4, generator=generator)
    mixed = torch.einsum("nchw,dc->ndhw", two, torch.rand(6, 2, generator=torch.Generator().manual_seed(2)))
    return mixed.repeat_interleave(2, 2).repeat_interleave(2, 3)


def coders() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return encoder(6, 2), decoder(2, 6, (8, 8))


def error(one: torch.nn.Module, other: torch.nn.Module) -> float:
    value = activations(40)
    with torch.no_grad():
        back = other.eval()(from_levels(to_levels(one.eval()(value), 8), 8))
    return float((back - value).square().mean())


def test_fitted_coders_give_back_what_they_are_given_and_fewer_than_a_batch_are_one():
    before = error(*coders())
    one, other = coders()
    errors = pretrain(one, other, activations(200), bits=8, epochs=30, batch_size=50, seed=0)
    assert len(errors) == 30
    assert errors[-1] < errors[0] / 3
    assert error(one, other) < before / 3
    again = coders()
    assert pretrain(*again, activations(200), bits=8, epochs=30, batch_size=50, seed=0) == errors
    assert len(pretrain(*coders(), activations(5), bits=None, epochs=2, batch_size=50, seed=0)) == 2
