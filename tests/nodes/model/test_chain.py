"""Networks in parts against the whole one, bit for bit; what crosses a boundary; what cannot be a chain."""

import copy
import itertools
import random

import pytest
import torch
from oracle import draw_like_parts, seed_before
from torch import nn
from user_models import DROPPED, ChangesItself, Drops, Scalars, Tied

from nodes.errors import ModelError
from nodes.model.boundary import boundary_bytes, pack, unpack
from nodes.model.chain import Chain, Moment, Part
from nodes.model.factory import build_model, outline

SMALL = (3, 32, 32)
MOMENT = Moment(seed=5, step=3, microbatch=1)
EVERYTHING = "user_models:Everything"


def cuts(length: int, parts: int, seed: int) -> list[int]:
    inner = random.Random(seed).sample(range(1, length), parts - 1)
    return [0, *sorted(inner), length]


def in_parts(parts: list[Part], x: torch.Tensor, backward: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits, and the gradient of ``x`` where all logits have gradient 1/10; only tensors pass a cut."""
    values, sides = {parts[0].inputs[0]: x}, []
    for part in parts:
        tensors, views, scalars = pack(values)
        leaves = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        for name, leaf in leaves.items():
            leaf.requires_grad_(backward and tensors[name].requires_grad)
        sides.append((tensors, leaves))
        values = part(unpack(leaves, views, scalars), MOMENT)
    (logits,) = values.values()
    if not backward:
        return logits, None
    logits.backward(torch.full_like(logits, 0.1))
    for tensors, leaves in reversed(sides[1:]):
        sent = [(tensors[name], leaf.grad) for name, leaf in leaves.items() if leaf.grad is not None]
        torch.autograd.backward([tensor for tensor, _ in sent], [gradient for _, gradient in sent])
    (leaf,) = sides[0][1].values()
    return logits, leaf.grad


def assert_parts_equal_whole(whole: nn.Module, chain: Chain, ends: list[int], train: bool, batch: int) -> None:
    """``whole`` is an untouched copy of the network of ``chain`` that draws what the parts draw at MOMENT."""
    whole.zero_grad()
    parts = [chain.part(start, stop).train(train) for start, stop in itertools.pairwise(ends)]
    x = torch.randn(batch, *chain.input_shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mine, mine_gradient = in_parts(parts, x, backward=train)
    expected = whole.train(train)(x)
    assert torch.equal(mine, expected)
    if train:
        expected.backward(torch.full_like(expected, 0.1))
        assert torch.equal(mine_gradient, x.grad)
        assert_same_gradients(whole, parts)
    buffers = {name.removeprefix("body."): buffer for part in parts for name, buffer in part.named_buffers()}
    assert all(torch.equal(buffers[name], buffer) for name, buffer in whole.named_buffers())


def assert_same_gradients(whole: nn.Module, parts: list[Part]) -> None:
    gradients = {n.removeprefix("body."): p.grad for part in parts for n, p in part.named_parameters()}
    for name, parameter in whole.named_parameters():
        if name not in gradients:
            assert parameter.grad is None
        elif parameter.grad is None:
            assert gradients[name] is None
        else:
            assert torch.equal(gradients[name], parameter.grad), name
    for part in parts:
        part.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("name", "counts", "batch"),
    [
        ("vgg11", (3,), 1),
        pytest.param("vgg11_bn", (4,), 2, marks=pytest.mark.nightly),
        pytest.param("vgg16", (3,), 1, marks=pytest.mark.nightly),
        ("resnet18", (2, 5, 9), 2),
        ("resnet50", (5,), 2),
        pytest.param("resnet101", (4,), 2, marks=pytest.mark.nightly),
        pytest.param("resnet152", (4,), 2, marks=pytest.mark.nightly),
        ("mobilenet_v2", (2, 5), 2),
        ("densenet121", (4,), 2),
        ("vit_b_16", (3,), 1),
    ],
)
def test_random_parts_equal_the_whole_network(name, counts, batch):
    model = build_model(name, 10, SMALL, seed=1)
    whole = copy.deepcopy(model)
    chain = Chain(model, SMALL)
    draw_like_parts(whole, chain, [MOMENT])
    for seed, count in enumerate(counts):
        for train in (True, False):
            assert_parts_equal_whole(whole, chain, cuts(len(chain), count, seed), train, batch)


def assert_every_cut_equals_whole(
    model: nn.Module, shape=SMALL, trains=(True,), draws=lambda whole, chain: None
) -> Chain:
    """``draws`` seeds the generator where ``whole`` draws, as the layers of ``chain`` do."""
    whole = copy.deepcopy(model)
    chain = Chain(model, shape)
    draws(whole, chain)
    for cut, train in itertools.product(range(1, len(chain)), trains):
        assert_parts_equal_whole(whole, chain, [0, cut, len(chain)], train, batch=3)
    return chain


@pytest.mark.parametrize("train", [True, False])
def test_every_cut_of_a_users_network_equals_the_whole(train):
    def draws(whole: nn.Module, chain: Chain) -> None:
        # Nothing else draws, so a seed set in any module before a functional dropout is in place.
        dropouts = [index for index, name in enumerate(chain.names) if "dropout" in name]
        seed_before(whole.block, dropouts[0], [MOMENT])
        seed_before(whole.thin, dropouts[1], [MOMENT])

    assert_every_cut_equals_whole(build_model(EVERYTHING, 10, (3, 6, 6), seed=1), (3, 6, 6), (train,), draws)


@pytest.mark.parametrize("how", DROPPED)
def test_what_drops_in_training_alone_is_seeded_and_does_nothing_in_evaluation(how):
    torch.manual_seed(1)
    # The hook runs before the layer after which it is drawn.
    chain = assert_every_cut_equals_whole(
        Drops(how), trains=(True, False), draws=lambda whole, _: seed_before(whole.conv, 1, [MOMENT])
    )
    part = chain.part(0, len(chain)).train()
    x = torch.randn(4, *SMALL)
    one, again, other = (part({chain.input: x}, Moment(1, step))[chain.output] for step in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_number_that_follows_from_the_batch_crosses_a_cut():
    torch.manual_seed(1)
    chain = assert_every_cut_equals_whole(Scalars())
    assert {type(value) for value in chain.shapes(2).values()} == {torch.Tensor, float}


def test_what_is_detached_stays_so_across_a_cut() -> None:
    assert_every_cut_equals_whole(build_model("user_models:Detaches", 4, SMALL))


def test_where_a_network_that_draws_is_cut_changes_nothing():
    chain = Chain(build_model("user_models:Draws", 10, SMALL), SMALL)
    x, end = torch.randn(4, *SMALL), len(chain)

    def drawn(*ends: int) -> torch.Tensor:
        parts = [chain.part(start, stop).train() for start, stop in itertools.pairwise((0, *ends, end))]
        return in_parts(parts, x, backward=False)[0]

    whole = drawn()
    assert all(torch.equal(whole, drawn(cut)) for cut in range(1, end))
    assert torch.equal(whole, drawn())
    other = chain.part(0, end).train()({chain.input: x}, MOMENT._replace(step=4))[chain.output]
    assert not torch.equal(other, whole)


@pytest.mark.parametrize(
    ("name", "granularity", "layers", "first"),
    [
        ("resnet18", "module", 52, "conv1"),
        ("resnet18", "op", 69, "conv1"),
        ("resnet152", "op", 515, "conv1"),
        ("vgg11", "op", 30, "features.0"),
        ("mobilenet_v2", "op", 153, "features.0.0"),
        ("vit_b_16", "op", 142, None),
    ],
)
def test_layers_are_counted_as_the_papers_count_them(name, granularity, layers, first):
    chain = outline(name, 10, SMALL, granularity)
    assert len(chain) == len(chain.names) == len(set(chain.names)) == layers
    assert first in (None, chain.names[0])


def test_what_crosses_is_the_live_tensors_each_storage_once_and_values_as_such():
    chain = outline("resnet18", 10, SMALL)
    index = chain.names.index("layer1.0.conv2")  # in a residual block: its input lives on beside its inside
    crossing = chain.shapes(index)
    assert [tuple(value.shape) for value in crossing.values()] == [(1, 64, 8, 8), (1, 64, 8, 8)]
    assert boundary_bytes(crossing) == 2 * 4 * 64 * 8 * 8
    assert boundary_bytes(chain.shapes(0)) == 4 * 3 * 32 * 32
    assert boundary_bytes(chain.shapes(len(chain))) == 4 * 10
    after = chain.names.index("layer1.0.relu#2") + 1  # between blocks one tensor crosses
    assert len(chain.boundary(after)) == 1
    chain = outline(EVERYTHING, 10, (3, 6, 8))
    crossing = chain.shapes(chain.names.index("thin"))
    kinds = [type(value) for value in crossing.values()]
    assert kinds.count(int) == 1  # the batch, used by a later view; height and width are the same for all batches
    shapes = sorted(tuple(value.shape) for value in crossing.values() if isinstance(value, torch.Tensor))
    assert shapes == [(1, 4, 6, 8), (1, 4, 6, 8), (1, 8, 1, 1), (1, 8, 6, 8)]  # halves, parameter, residual


def test_outline_has_the_shapes_of_the_network_and_no_memory_even_where_a_constructor_needs_values():
    chain = outline("resnet18", 10, SMALL)
    assert all(parameter.is_meta for parameter in chain.model.parameters())
    real = Chain(build_model("resnet18", 10, SMALL), SMALL)
    assert [boundary_bytes(chain.shapes(i)) for i in range(70)] == [boundary_bytes(real.shapes(i)) for i in range(70)]
    assert outline("user_models:Computes", 10, SMALL).names == ["mul", "flatten"]


def test_initialisation_follows_from_the_seed_alone_and_evaluation_draws_nothing():
    one, two, other = (build_model("user_models:Plain", 10, SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    chain = Chain(build_model("user_models:Plain", 10, SMALL), SMALL)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    chain.part(0, len(chain)).eval()({chain.input: torch.zeros(1, *SMALL)}, MOMENT)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("how", ["method", "function", "module", "operator"])
def test_what_is_changed_in_place_is_read_changed(how):
    model = ChangesItself(how)
    x = torch.randn(2, *SMALL)
    expected = copy.deepcopy(model)(x.clone())
    chain = Chain(model, SMALL)
    for cut in range(1, len(chain)):
        given = x.clone()
        assert torch.equal(in_parts([chain.part(0, cut), chain.part(cut, len(chain))], given, False)[0], expected)
        assert torch.equal(given, x)


def test_a_module_that_differs_in_evaluation_stays_whole():
    model = build_model("user_models:WithHead", 10, SMALL)
    whole = copy.deepcopy(model)
    chain = Chain(model, SMALL)
    assert chain.names == ["mean", "head", "tail.0", "tail.1"]
    for train in (True, False):
        assert_parts_equal_whole(whole, chain, [0, 1, 2, 4], train, batch=2)


@pytest.mark.parametrize("direct", [False, True])
def test_parameters_shared_over_a_cut_are_refused(direct):
    chain = Chain(Tied(direct), SMALL)
    chain.part(0, len(chain))
    with pytest.raises(ModelError, match="share"):
        chain.part(0, 2)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("resnet19", SMALL, "unknown model 'resnet19'"),
        ("no_such_module:Net", SMALL, "no_such_module"),
        ("user_models:NoSuchNet", SMALL, "NoSuchNet"),
        ("user_models:", SMALL, "user_models:"),
        (":Net", SMALL, ":Net"),
        ("user_models:F", SMALL, "not callable"),
        ("user_models:broken", SMALL, "KeyError: .no.*such setting"),
        ("user_models:torch.zeros", SMALL, "torch.zeros cannot be built"),
        ("user_models:text", SMALL, "expected a torch.nn.Module"),
        ("user_models:OtherInTraining", SMALL, "differ between training and evaluation"),
        ("user_models:TwoInputs", SMALL, "one tensor"),
        ("user_models:TwoResults", SMALL, "returns a tuple; expected one tensor"),
        ("user_models:Everything", (1, 6, 6), r"does not take pictures of shape \(1, 6, 6\)"),
        ("resnet18", (4, 32, 32), r"does not take pictures of shape \(4, 32, 32\)"),
        ("vit_b_16", (3, 30, 30), r"pictures \(3, 30, 30\)"),
    ],
)
def test_what_is_no_chain_is_one_error_on_one_line(name, shape, words):
    with pytest.raises(ModelError, match=words) as caught:
        outline(name, 10, shape)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        Chain(build_model(name, 10, shape), shape)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (3, 2), (-1, 2), (0, 99)])
def test_impossible_parts_are_refused(start, stop):
    with pytest.raises(ModelError, match="no part"):
        outline("user_models:Plain", 10, SMALL).part(start, stop)
