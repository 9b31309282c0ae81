"""Networks that cannot be a chain, and what the error says; the comparison that finds what a trace does not see."""

import numpy as np
import pytest
import torch
from awkward_models import Calls, Net
from torch import nn

from nodes.errors import ModelError
from nodes.model.chain import Chain
from nodes.model.fidelity import check_fidelity

SHAPE = (3, 9, 8)
HERE = __file__.rpartition("/")[2]


def on_values(self, x):
    return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def on_the_batch(self, x):
    return x.flatten(1) if x.shape[0] > 16 else -x.flatten(1)


def loops_over_the_batch(self, x):
    return torch.stack([x[index].flatten() * 2 for index in range(x.shape[0])])


def backward_hook() -> nn.Module:
    net = Net()
    net.register_full_backward_hook(lambda module, inputs, outputs: None)
    return net


def line(function) -> str:
    return f"{HERE}:{function.__code__.co_firstlineno + 1}"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Calls(on_values), f"values of a tensor.*{line(on_values)}.*whole = True"),
        (lambda: Calls(on_the_batch), f"size of the batch.*{line(on_the_batch)}"),
        (lambda: Calls(loops_over_the_batch), f"size of the batch.*{line(loops_over_the_batch)}"),
        (backward_hook, "backward hook on the whole model"),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3))), "torch.jit.script"),
    ],
)
def test_what_the_root_does_is_refused_with_its_line(make, words):
    with pytest.raises(ModelError, match=words):
        Chain(make(), SHAPE)


@pytest.mark.parametrize("function", [on_values, on_the_batch, loops_over_the_batch])
def test_what_a_module_does_keeps_it_whole_and_is_told(function):
    class Inner(nn.Module):
        def forward(self, x):
            return function(self, x).view(x.shape)

    torch.manual_seed(0)
    chain = Chain(Net(Inner()), SHAPE)
    assert [one.path for one in chain.kept] == ["body.0"]
    assert HERE in chain.kept[0].where
    assert "body.0" in chain.names


class OwnGenerator(nn.Module):
    """Draws that no trace sees, for they leave no trace in a global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return x * float(self.generator.uniform())


def test_what_the_trace_does_not_see_is_found_by_comparison():
    with pytest.raises(ModelError, match=r"do not compute what the model does.*whole = True"):
        Chain(Net(OwnGenerator()), SHAPE)
    net = Net(OwnGenerator())
    net.body[0].whole = True
    assert "body.0" in Chain(net, SHAPE).names


class Around(nn.Module):
    """Draws of its own between two layers that are right."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return self.after(self.before(x) * float(self.generator.uniform()))


class Kept(nn.Module):
    """One layer, whose own modules no layer is."""

    whole = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.inner(x) + 1


@pytest.mark.parametrize(
    ("odd", "where"),
    [
        (OwnGenerator, r"body\.0\.1\.1 \(\S*\.OwnGenerator\)"),
        (Around, r"body\.0\.1\.1 \(\S*\.Around\)"),
    ],
)
def test_the_error_names_the_module_in_which_a_difference_begins(odd, where):
    inner = nn.Sequential(nn.Conv2d(8, 8, 1), odd(), nn.Conv2d(8, 8, 1))
    with pytest.raises(ModelError, match=f"begins in {where};"):
        Chain(Net(nn.Sequential(Kept(), inner)), SHAPE)


def test_a_difference_in_the_models_own_forward_is_named_so():
    class Own(Net):
        def forward(self, x):
            return super().forward(x * float(self.generator.uniform()))

    net = Own()
    net.generator = np.random.default_rng(0)
    with pytest.raises(ModelError, match=r"begins in the model's own forward \(\S*Own\);"):
        Chain(net, SHAPE)


class Scale(torch.autograd.Function):
    """Its input, with a gradient ``factor`` times as large."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class Scales(nn.Module):
    whole, factor = True, 2.0

    def forward(self, x):
        return Scale.apply(x, self.factor)


def test_the_error_names_the_module_in_which_gradients_alone_begin_to_differ():
    net = Net(nn.Sequential(Kept(), nn.Sequential(nn.Conv2d(8, 8, 1), Scales(), nn.Conv2d(8, 8, 1))))
    chain = Chain(net, SHAPE)

    def other(model):
        model.get_submodule("body.0.1.1").factor = 3.0
        return chain._part_of(model, 0, len(chain))

    net.settled = True  # not the model that was compared
    with pytest.raises(ModelError, match=r"begins in body\.0\.1\.1 \(\S*Scales\);"):
        check_fidelity(net, other, torch.empty(SHAPE, device="meta"), always=True)
