"""Networks that cannot be a chain, and what the error says; the comparison that finds what a trace does not see."""

import numpy as np
import pytest
import torch
from awkward_models import Calls, Net
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nodes.errors import ModelError
from nodes.model.chain import Chain
from nodes.model.fidelity import _fingerprint, check_fidelity

SHAPE = (3, 9, 8)
HERE = __file__.rpartition("/")[2]


def on_values(self, x):
    return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def on_the_batch(self, x):
    return x.flatten(1) if x.shape[0] > 16 else -x.flatten(1)


def loops_over_the_batch(self, x):
    return torch.stack([x[index].flatten() * 2 for index in range(x.shape[0])])


def hooks_a_gradient(self, x):
    y = self.stem(x)
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * 3)
    return y.flatten(1)


def draws_outside_torch(self, x):
    return x.flatten(1) * np.random.rand()


def replaces_a_parameter(self, x):
    return torch.func.functional_call(self.inner, {"weight": self.inner.weight * 2}, (x,)).flatten(1)


def follows_the_ambient_mode(self, x):
    return (x * 2 if torch.is_grad_enabled() else x).flatten(1)


def seeds(self, x):
    torch.manual_seed(0)
    return x.flatten(1) + torch.rand(1)


@pytest.mark.parametrize(
    "function", [hooks_a_gradient, draws_outside_torch, replaces_a_parameter, follows_the_ambient_mode, seeds]
)
def test_what_no_graph_shows_is_refused_before_any_comparison(function, monkeypatch):
    monkeypatch.setattr(Chain, "compared", False)
    with pytest.raises(ModelError, match=r"cannot be traced.*whole = True"):
        Chain(Calls(function, stem=nn.Conv2d(3, 3, 1), inner=nn.Conv2d(3, 3, 1)), SHAPE)


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
        (lambda: Calls(lambda self, x: {"logits": x.flatten(1)}), "the model returns a dict; expected one tensor"),
        (lambda: Calls(lambda self, x: (x.flatten(1),)), "the model returns a tuple; expected one tensor"),
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


def test_what_differs_from_run_to_run_is_refused_unless_it_is_said_to_be_whole():
    calls = []

    def counted(self, x):
        calls.append(1)
        return x * (1 + 0.01 * len(calls))

    with pytest.raises(ModelError, match=r"something else each time it runs, .*whole = True"):
        Chain(Net(Calls(counted)), SHAPE)
    net = Net(Calls(counted))
    net.body[0].whole = True
    assert "body.0" in Chain(net, SHAPE).names


class Counted(nn.Module):
    def __init__(self, counts) -> None:
        super().__init__()
        self.counts, self.state = counts, (1,)

    def forward(self, x):
        self.state = (self.state[0] + self.counts["by"][0],)
        return x * self.state[0]


def test_a_network_with_other_settings_is_compared_again():
    Chain(Net(Counted({"by": [0]})), SHAPE)
    with pytest.raises(ModelError, match="do not compute what the model does"):
        Chain(Net(Counted({"by": [1]})), SHAPE)


PLAIN = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.text(max_size=2)
SETTINGS = st.recursive(
    PLAIN,
    lambda one: st.lists(one, max_size=2) | st.tuples(one) | st.dictionaries(st.text(max_size=1), one),
    max_leaves=4,
)


@given(SETTINGS, SETTINGS)
def test_only_networks_of_the_same_settings_are_taken_for_equal(one, other):
    fingerprints = [_fingerprint(Calls(None, settings=value)) for value in (one, other)]
    assert None not in fingerprints
    assert (fingerprints[0] == fingerprints[1]) == (repr(one) == repr(other))


def test_functions_are_the_same_where_code_and_what_they_hold_are():
    def scaled(by):
        return Calls(lambda self, x: x * by)

    assert _fingerprint(scaled(2)) == _fingerprint(scaled(2)) != _fingerprint(scaled(3))
    assert _fingerprint(scaled(nn.Linear(1, 1))) is None
