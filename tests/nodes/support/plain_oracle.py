"""A network in parts against plain PyTorch: outputs, gradients and buffers in two training steps and an evaluation."""

import copy
import itertools
import random

import numpy as np
import torch
from torch import nn

from nodes.errors import ModelError
from nodes.model.boundary import apart, pack, returning_views, unpack
from nodes.model.chain import Chain, Part

SHAPE = (3, 9, 8)


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def all_draws() -> tuple:
    """Where all generators stand."""
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
        random.getstate(),
    )


def shares_nothing(chain: Chain, cut: int) -> bool:
    try:
        chain.check_part(0, cut)
    except ModelError:
        return False
    return True


def run_in_parts(parts: list[Part], x: torch.Tensor, backward: bool) -> torch.Tensor:
    values, sides = {parts[0].inputs[0]: x}, []
    for number, part in enumerate(parts):
        tensors, views, scalars = pack(values)
        sent = tensors | (returning_views(values, views, {}) if backward else {})
        wired = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        leaves, views = apart(wired, views, sent)
        leaves = {name: leaf.detach() for name, leaf in leaves.items()}
        for name, leaf in leaves.items():
            leaf.requires_grad_(bool(backward and number and sent[name].requires_grad))
        sides.append((sent, leaves))
        values = part(unpack(leaves, views, scalars))
    (result,) = values.values()
    if backward and result.requires_grad:
        result.square().sum().backward()
        for tensors, leaves in reversed(sides[1:]):
            sent = [(tensors[name], leaf.grad) for name, leaf in leaves.items() if leaf.grad is not None]
            torch.autograd.backward([tensor for tensor, _ in sent], [gradient for _, gradient in sent])
    return result.detach()


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both have the same numbers; where both have none (nan, as of a network that diverges) they do."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def assert_equals_plain(make, ends, kept) -> Chain:
    """Two training steps with SGD and an evaluation, of batches of different sizes, each with a seed of its own."""
    seed_all(1)
    model = make()
    seed_all(1)
    whole = make()
    for module in (model, whole):
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module.parameters()):
            seed_all(2)
            module.eval()(torch.zeros(1, *SHAPE))
    seed_all(1)
    state, draws = copy.deepcopy(whole.state_dict()), all_draws()
    chain = Chain(model, SHAPE)
    assert all_draws() == draws
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert set(kept) == {one.path for one in chain.kept}
    ends = [0, *(end for end in ends(len(chain)) if shares_nothing(chain, end)), len(chain)]
    parts = [chain.part(start, stop) for start, stop in itertools.pairwise(ends)]
    for step, batch in enumerate((3, 5)):
        x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(step))
        for part in parts:
            part.train()
        seed_all(step)
        got = run_in_parts(parts, x, backward=True)
        seed_all(step)
        expected = whole.train()(x)
        expected.square().sum().backward()
        assert equal(got, expected)
        found = {name.removeprefix("body."): p for part in parts for name, p in part.named_parameters()}
        for name, parameter in whole.named_parameters():
            other = found.get(name)
            if parameter.grad is None:
                assert other is None or other.grad is None, name
            else:
                assert equal(other.grad, parameter.grad), name
        buffers = {name.removeprefix("body."): b for part in parts for name, b in part.named_buffers()}
        for name, buffer in whole.named_buffers():
            assert name not in buffers or torch.equal(buffers[name], buffer), name
        for owner in (whole, *parts):
            for parameter in owner.parameters():
                if parameter.grad is not None:
                    parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
    for part in parts:
        part.eval()
    with torch.no_grad():
        seed_all(9)
        got = run_in_parts(parts, x, backward=False)
        seed_all(9)
        assert equal(got, whole.eval()(x))
    return chain
