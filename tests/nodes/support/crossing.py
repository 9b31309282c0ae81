"""A network in parts, with what crosses each cut as on the wire, against the same network in plain PyTorch."""

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from nodes.model.boundary import apart, pack, returning_views, unpack
from nodes.model.chain import Chain, Moment

FIRST = Moment(1, 0)


def crossed(
    parts: Sequence[nn.Module],
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    moment: Moment | None = FIRST,
) -> torch.Tensor:
    """Logits of ``parts``; with ``labels`` gradients go all the way back."""
    values, sides = {parts[0].inputs[0]: x}, []
    for part in parts:
        strides, noted = {}, {}
        tensors, views, scalars = pack(values, strides)
        sent = tensors | (returning_views(values, views, strides) if labels is not None else {})
        wired = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        leaves, views = apart(wired, views, sent)
        leaves = {
            name: tensor.detach().requires_grad_(labels is not None and sent[name].requires_grad)
            for name, tensor in leaves.items()
        }
        sides.append((sent, leaves, strides, noted))
        values = part(unpack(leaves, views, scalars, noted), moment)
    (logits,) = values.values()
    if labels is not None:
        F.cross_entropy(logits, labels).backward()
        for sent, leaves, strides, noted in reversed(sides[1:]):
            strides.update(noted)
            roots = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            torch.autograd.backward([sent[name] for name in roots], list(roots.values()))
    return logits.detach()


def assert_equals_plain(model: nn.Module, side: int, cuts: Sequence[Sequence[int]], size: int = 2) -> None:
    """Logits in both modes, gradients and buffers are those of ``model`` itself, bit for bit, for all ``cuts``.

    Nothing is dropped, for plain PyTorch would draw at other times.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
    x = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(size)
    whole, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        answers = whole.eval()(x)
    logits = whole.train()(x)
    F.cross_entropy(logits, labels).backward()
    gradients = {name: one.grad for name, one in whole.named_parameters()}
    chain = Chain(model, (3, side, side))
    for cut in cuts:
        ends = sorted({0, *cut, len(chain)})
        parts = [chain.part(start, stop) for start, stop in itertools.pairwise(ends)]
        model.load_state_dict(before)
        with torch.no_grad():
            assert torch.equal(crossed([part.eval() for part in parts], x), answers), f"evaluation cut at {cut}"
        assert torch.equal(crossed([part.train() for part in parts], x, labels), logits.detach()), f"cut at {cut}"
        found = {name.removeprefix("body."): one.grad for part in parts for name, one in part.named_parameters()}
        assert found.keys() == gradients.keys()
        assert [name for name in found if not equal(found[name], gradients[name])] == [], f"gradients cut at {cut}"
        after, expected = model.state_dict(), whole.state_dict()
        assert [name for name, value in expected.items() if not torch.equal(after[name], value)] == []
        for one in model.parameters():
            one.grad = None


def equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
