"""Strides at a cut: values and gradients keep them, so networks of any memory format equal plain PyTorch to the bit."""

import pytest
import torch
from federations import JOB, PlainEpsl, PlainLoop, assert_close, make_federation, same, trained
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from oracle import assert_equals_unsplit, first_message, make_job

from nodes.data.loading import load_data
from nodes.errors import ProtocolError
from nodes.model.boundary import View, boundary_bytes, pack, row_major, unpack
from nodes.model.factory import outline
from nodes.wire.messages import Gradient

SHAPE = (3, 16, 16)
CUTS = [
    pytest.param(model, cut, id=f"{model} {cut}")
    for model in ("ChannelsLast", "Permuting", "Branches", "Gaps")
    for cut in range(1, len(outline(f"user_models:{model}", 10, SHAPE)))
]
LAST = torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("model", "cut"), CUTS)
def test_a_network_of_any_memory_format_trains_in_parts_as_in_plain_pytorch(model, cut, tmp_path):
    job = make_job(f"user_models:{model}", (cut,), input_shape=SHAPE, epochs=1, steps=4)
    assert_equals_unsplit(job, tmp_path)


def test_a_channels_last_value_travels_in_the_order_of_its_indices_and_gets_its_strides_back():
    value = LAST.clone().requires_grad_()
    tensors, views, scalars = pack({"x": value, "same": value, "n": 4})
    assert tensors["x"].is_contiguous()
    assert torch.equal(tensors["x"], value)
    assert views["x"] == View("x", (2, 3, 4, 5), (60, 1, 15, 3), 0)
    assert boundary_bytes({"x": value}) == 4 * 120
    leaf = tensors["x"].detach().requires_grad_()
    rebuilt = unpack({"x": leaf}, views, scalars)
    assert rebuilt["x"].stride() == value.stride()
    assert rebuilt["same"] is rebuilt["x"]
    assert torch.equal(rebuilt["x"], value)
    (rebuilt["x"] * 2).sum().backward()
    tensors["x"].backward(leaf.grad)
    assert value.grad.stride() == value.stride()
    assert value.grad.unique().tolist() == [2.0]


def test_a_contiguous_value_is_sent_as_it_is():
    value = torch.ones(2, 3)
    tensors, views, _ = pack({"x": value})
    assert tensors["x"] is value
    assert views == {}


GRADIENTS = {  # of a value (2, 3, 4, 5), with the strides in which it has to flow on
    "channels last": (torch.ones(2, 4, 5, 3).permute(0, 3, 1, 2), (60, 1, 15, 3)),
    "expanded": (torch.ones(2, 3, 1, 1).expand(2, 3, 4, 5), (3, 1, 0, 0)),
    "a part": (torch.ones(2, 7, 4, 5)[:, 2:5], (140, 20, 5, 1)),
    "a small part": (torch.ones(2, 700, 4, 5)[:, 2:5], (120, 20, 5, 1)),  # its gap is narrowed to as much again
    "as the value": (torch.ones(2, 3, 4, 5), None),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_flows_on_with_the_strides_that_it_has_at_the_receiver(name):
    gradient, stride = GRADIENTS[name]
    seen, strides, noted = [], {}, {}
    value = torch.zeros(2, 3, 4, 5, requires_grad=True) * 1
    value.register_hook(lambda came: seen.append(came.stride()))
    tensors, views, scalars = pack({"x": value}, strides)
    leaf = tensors["x"].detach().requires_grad_()
    unpack({"x": leaf}, views, scalars, noted)["x"].backward(gradient)
    assert noted == ({} if stride is None else {"x": stride})
    assert leaf.grad.is_contiguous()
    strides.update(noted)
    tensors["x"].backward(leaf.grad)
    assert seen == [stride or row_major(gradient.shape)]


def test_a_gradient_that_joins_another_at_the_sender_leaves_its_strides_to_the_sum():
    """Plain PyTorch adds the later gradient to the earlier one in place, so the earlier one decides."""
    came, own = torch.ones(2, 6, 1, 1), torch.ones(2, 6, 1, 1)
    seen, strides = [], {}
    value = torch.zeros(2, 6, 1, 1, requires_grad=True) * 1
    value.register_hook(lambda gradient: seen.append(gradient.stride()))
    result = value * 2
    sent = pack({"x": value}, strides)[0]["x"]
    strides["x"] = (6, 1, 6, 6)
    torch.autograd.backward([sent, result], [came, own])
    assert seen == [(6, 1, 6, 6)]


@pytest.mark.parametrize(
    ("strides", "words"),
    [
        ({"nothing": (1,)}, "values not sent"),
        ({"x": (1, 1, 1, 1)}, "cannot have strides"),
        ({"x": (1 << 40, 1, 15, 3)}, "cannot have strides"),
        ({"x": (-60, 1, 15, 3)}, "cannot have strides"),
        ({"x": (60, 20, 5)}, "cannot have strides"),
    ],
)
def test_strides_of_a_gradient_that_cannot_be_are_refused(strides, words):
    ue, sent = first_message(make_job("user_models:Still", (1,), input_shape=SHAPE))
    ((name, tensor),) = sent.tensors.items()
    strides = {name if key == "x" else key: stride for key, stride in strides.items()}
    gradient = Gradient(assignment=0, step=0, tensors={name: torch.ones_like(tensor)}, strides=strides)
    with pytest.raises(ProtocolError, match=words):
        ue.backward(gradient)


BASE = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "view",
    [
        View("b", (2, 3, 4), (0, 4, 1), 0),  # the same elements twice
        View("b", (23,), (0,), 0),
        View("b", (4, 4), (2, 1), 0),  # overlapping
        View("b", (25,), (1,), 0),
        View("b", (2, 12), (13, 1), 0),  # beyond the base
        View("b", (4,), (1,), 21),
        View("b", (4,), (1,), -1),
        View("b", (4,), (-1,), 8),
        View("b", (-4,), (1,), 0),
        View("b", (1 << 60, 1 << 60), (1, 1), 0),
        View("b", (2, 2), (1,), 0),
        View("nothing", (4,), (1,), 0),
        View("v", (2, 3, 4), (12, 4, 1), 0),
    ],
    ids=str,
)
def test_a_view_that_is_not_part_of_its_base_is_refused(view):
    with pytest.raises(ProtocolError, match=r"v: a view of shape .* is not part of"):
        unpack({"b": BASE}, {"v": view}, {})


@pytest.mark.parametrize(
    "view",
    [
        View("b", (2, 3, 4), (1 << 40, 4, 1), 0),
        View("b", (2, 3, 4), (12, 3, 1), 0),
        View("b", (2, 3, 4), (1000, 300, 1), 0),
        View("b", (2, 3, 4), (12, 4, 1), 1),
        View("b", (4, 3, 4), (12, 4, 1), 0),
        View("b", (24,), (1,), 0),
    ],
    ids=str,
)
def test_a_value_whose_own_strides_overlap_or_take_too_much_memory_is_refused(view):
    with pytest.raises(ProtocolError, match=r"b: a view of shape .* is not part of b"):
        unpack({"b": BASE}, {"b": view}, {})


GAPS = {  # values, and the strides in which they arrive
    "every second": (torch.rand(4, 129)[:, ::2], (129, 2)),
    "apart in two dimensions": (torch.rand(2, 3, 8, 8)[:, :, ::2, ::2], (192, 64, 16, 2)),
    "the same many times": (torch.rand(4, 1, 9).expand(4, 5, 9), (9, 0, 1)),
    "one of hundreds": (torch.rand(3, 500, 7)[:, 9], (14, 1)),
}


@pytest.mark.parametrize("name", GAPS)
def test_a_value_with_gaps_in_memory_arrives_with_its_order_of_strides(name):
    value, stride = GAPS[name]
    tensors, views, scalars = pack({"x": value})
    assert boundary_bytes({"x": value}) == 4 * value.numel()
    rebuilt = unpack({"x": tensors["x"].contiguous()}, views, scalars)["x"]
    assert torch.equal(rebuilt, value)
    assert rebuilt.stride() == stride


def test_equal_elements_that_a_stage_made_differ_stay_apart():
    _, views, scalars = pack({"x": torch.ones(4, 1, 9).expand(4, 5, 9)})
    noisy = torch.rand(4, 5, 9)
    assert torch.equal(unpack({"x": noisy}, views, scalars)["x"], noisy)


@given(st.permutations(range(3)), st.lists(st.integers(0, 3), min_size=3, max_size=3), st.data())
def test_whatever_shares_a_storage_is_rebuilt_with_its_values(order, sizes, data):
    whole = torch.arange(float(torch.Size(sizes).numel())).reshape(sizes)
    values = {"whole": whole.permute(*order)}
    for number in range(data.draw(st.integers(0, 3))):
        axis, start = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
        values[f"part{number}"] = (
            values["whole"].narrow(axis, min(start, sizes[order[axis]]), 0 if start else 1)
            if (sizes[order[axis]])
            else values["whole"].transpose(0, axis)
        )
    values["wide"] = whole[:1].expand(4, *sizes[1:]) if sizes[0] else whole
    tensors, views, scalars = pack(values)
    rebuilt = unpack({name: tensor.contiguous() for name, tensor in tensors.items()}, views, scalars)
    assert rebuilt.keys() == values.keys()
    assert all(torch.equal(rebuilt[name], value) for name, value in values.items())


@pytest.mark.parametrize("cut", [2, 5])
def test_a_channels_last_network_of_many_clients_trains_as_in_a_plain_loop(cut):
    job = replace(JOB, model="user_models:last_cnn", splits=(cut,))
    joint, averaged = make_federation("psl", job), make_federation("epsl", job, phi=0.5)
    data = load_data(job)
    loop, definition = PlainLoop(joint, data), PlainEpsl(averaged, data)
    for _ in range(4):
        loop.together()
        definition.together()
    states, expected = trained(joint).states, loop.states()
    assert all(same(states[name], expected[name]) for name in joint.client_names)
    states, expected = trained(averaged).states, definition.states()
    for name, state in expected.items():
        assert_close(states[name], state)
