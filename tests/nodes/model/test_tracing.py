"""Networks that a plain trace would silently change, in parts, against plain PyTorch over two steps."""

import collections
import copy
import itertools
import random

import crossing
import pytest
import torch
from awkward_models import EXACT, ChangedSlice
from plain_oracle import SHAPE, assert_equals_plain, seed_all
from torch import nn
from user_models import DROPPED, Drops

from nodes.errors import ModelError
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


class Kept(nn.Module):
    """Runs ``function`` and decides on values, so that it stays one layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x if x.sum() < 1e9 else x * 2)


class Around(nn.Module):
    """Reads what it gave to ``inner`` again afterwards: all of it, or of two of its channels; ``after`` is run too."""

    def __init__(self, inner, part=False, after=lambda y: y) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(3, 4, 3), inner, nn.Linear(4, 2)
        self.part, self.after = part, after

    def forward(self, x):
        x = self.stem(x)
        y = self.after(self.inner(x[:, :2] if self.part else x))
        return self.head((torch.cat([y, y], 1) + x if self.part else y + x).mean((2, 3)))


IN_PLACE = {
    "and returns another": lambda x: x.add_(1) * 2,
    "and returns it": lambda x: x.mul_(2),
    "and returns a view": lambda x: x.relu_()[:, :],
    "not, and asks for leaves": lambda x: x * 2 if x.is_leaf else x * 3,
}


@pytest.mark.parametrize("how", IN_PLACE)
@pytest.mark.parametrize("part", [False, True])
def test_a_kept_module_that_changes_its_input_in_place_equals_plain_pytorch(how, part):
    if part and how == "and returns it":
        pytest.skip("gradients of the part are added to those of the whole in another order: equal but for rounding")
    assert_equals_plain(lambda: Around(Kept(IN_PLACE[how]), part), lambda layers: range(1, layers), {"inner"})


def test_a_change_in_place_of_a_view_that_a_kept_module_returned_is_refused_without_a_comparison(monkeypatch):
    monkeypatch.setattr(Chain, "compared", False)
    with pytest.raises(ModelError, match="a change in place of what a module returned, a view"):
        Chain(Around(Kept(lambda x: x[:, :]), after=lambda y: y.add_(1)), SHAPE)


class Counting(nn.Module):
    """Counts its calls in ``count``, which ``function`` raises; returned is what it multiplies by."""

    def __init__(self, function, count) -> None:
        super().__init__()
        self.function, self.count = function, count
        self.stem = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.stem(x).mean((2, 3)) * self.function(self)


def counted(self):
    self.count += 1
    return self.count


def counted_idly(self):
    return counted(self) * 0 + 1


def lengthened(self):
    self.count.append(0)
    return len(self.count)


def entered(self):
    self.count["n"] += 1
    return self.count["n"]


COUNTERS = {
    "number": (counted, lambda: 0),
    "iterator": (lambda self: next(self.count), lambda: itertools.count(1)),
    "deque": (lengthened, collections.deque),
    "entry": (entered, lambda: {"n": 0}),
}


@pytest.mark.parametrize("how", COUNTERS)
def test_a_count_of_calls_keeps_its_module_whole_and_is_refused_in_the_models_own_forward(how, monkeypatch):
    monkeypatch.setattr(Chain, "compared", False)
    function, count = COUNTERS[how]
    chain = Chain(nn.Sequential(Counting(function, count())), SHAPE)
    assert [str(one) for one in chain.kept] == ["0: its count changes from call to call"]
    with pytest.raises(ModelError, match=r"it computes with its count, which changes from call to call; .*whole"):
        Chain(Counting(function, count()), SHAPE)


def test_a_count_of_calls_that_nothing_is_computed_with_is_no_obstacle():
    chain = Chain(Counting(counted_idly, 0), SHAPE)
    assert chain.kept == ()
    assert chain.model.count == 0
