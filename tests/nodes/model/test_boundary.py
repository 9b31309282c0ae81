"""What is packed comes out as it was, each storage is sent once, and gradients reach what was sent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nodes.model.boundary import apart, boundary_bytes, pack, returning_views, unpack

BASE = torch.arange(24.0).view(2, 3, 4)
SCALARS = {"size": 7, "scale": 0.5, "keep": True}
VIEWS = {
    "the same": lambda x: x,
    "reshaped": lambda x: x.view(6, 4),
    "a slice of rows": lambda x: x[1],
    "a slice of columns": lambda x: x[:, :, 1:3],
    "transposed": lambda x: x.transpose(0, 2),
    "one element": lambda x: x[1, 2, 3],
}


def wired(tensors):
    """As they come out of a wire: contiguous and with storages of their own."""
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_view_crosses_with_its_base_and_no_bytes_of_its_own(make, device):
    base = BASE.clone().to(device)
    values = {"view": make(base), "base": base, **SCALARS}
    tensors, views, scalars = pack(values)
    assert list(tensors) == [next(iter(tensors))]
    assert boundary_bytes(values) == BASE.nbytes
    assert scalars == SCALARS
    assert list(map(type, scalars.values())) == list(map(type, SCALARS.values()))
    restored = unpack(wired(tensors), views, scalars)
    assert restored.keys() == values.keys()
    assert (restored["view"].shape, restored["base"].shape) == (make(BASE).shape, BASE.shape)
    if device == "cpu":
        assert torch.equal(restored["view"], make(BASE))
        assert torch.equal(restored["base"], BASE)


def test_parts_of_a_tensor_that_does_not_cross_and_other_dtypes_are_sent_each():
    left, right = BASE.clone().chunk(2, dim=2)
    tensors, views, _ = pack({"left": left, "right": right})
    assert {(name, view.base) for name, view in views.items()} == {("left", "left"), ("right", "right")}
    assert torch.equal(wired(tensors)["right"], BASE[:, :, 2:])
    base = torch.arange(4, dtype=torch.int32)
    assert len(pack({"base": base, "bits": base.view(torch.float32)})[0]) == 2


@pytest.mark.parametrize("twice", [lambda x: x.transpose(1, 2), lambda x: x.to(memory_format=torch.channels_last)])
def test_the_same_value_under_two_names_is_sent_once_whatever_its_strides(twice):
    value = twice(torch.randn(2, 3, 4, 5))
    tensors, views, _ = pack({"one": value, "other": value.view_as(value)})
    assert (tensors.keys(), views.keys()) == ({"one"}, {"one", "other"})
    restored = unpack(wired(tensors), views, {})
    assert restored["one"].stride() == restored["other"].stride() == value.stride()
    assert torch.equal(restored["one"], value)
    assert torch.equal(restored["other"], value)


def test_what_a_restorer_lays_out_otherwise_is_viewed_all_the_same():
    base = torch.randn(2, 3, 4, 4)
    tensors, views, _ = pack({"base": base, "rows": base.flatten(1)})
    laid_out = {"base": tensors["base"].clone(memory_format=torch.channels_last)}
    if "rows" in tensors:  # of two of a size either may be the base
        laid_out = wired(tensors)
    restored = unpack(laid_out, views, {})
    assert torch.equal(restored["rows"], base.flatten(1))
    assert torch.equal(restored["base"], base)


def test_gradients_of_a_view_and_of_its_base_meet_in_what_was_sent():
    base = BASE.clone()
    tensors, views, _ = pack({"base": base, "row": base[1]})
    leaf = wired(tensors)["base"].requires_grad_()
    restored = unpack({"base": leaf}, views, {})
    (restored["base"].sum() + 10 * restored["row"].sum()).backward()
    assert torch.equal(leaf.grad, torch.stack([torch.ones(3, 4), torch.full((3, 4), 11.0)]))


@given(st.lists(st.sampled_from(sorted(VIEWS)), min_size=1, max_size=4), st.booleans())
def test_any_views_come_out_as_they_went_in(chosen, whole):
    base = BASE.clone()
    values = {f"{number}": VIEWS[name](base) for number, name in enumerate(chosen)}
    values |= {"base": base} if whole else {}
    tensors, views, integers = pack(values)
    restored = unpack(wired(tensors), views, integers)
    assert all(torch.equal(restored[name], value) for name, value in values.items())
    assert not whole or sum(t.nbytes for t in tensors.values()) == base.nbytes


def test_a_view_that_is_negated_when_it_is_read_keeps_its_sign() -> None:
    spectrum = torch.fft.fft2(BASE)
    values = {"one": spectrum.imag, "other": spectrum.conj().imag}
    assert values["other"].is_neg()
    tensors, views, _ = pack(values)
    restored = unpack(wired(tensors), views, {})
    assert torch.equal(restored["one"], spectrum.imag.clone())
    assert torch.equal(restored["other"], -restored["one"])


@pytest.mark.parametrize("empty", [lambda x: x[:, :0], lambda x: x[:, :, :0].transpose(0, 1), lambda x: x[:0]])
def test_a_part_without_elements_crosses_and_returns_a_gradient(empty) -> None:
    leaf = BASE.clone().requires_grad_()
    base = leaf * 2
    values, strides, noted = {"base": base, "part": empty(base)}, {}, {}
    tensors, views, _ = pack(values, strides)
    sent = tensors | returning_views(values, views, strides)
    leaves, rest = apart(wired(tensors), views, sent)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in leaves.items()}
    assert leaves.keys() == {"base", "part"}
    arrived = unpack(leaves, rest, {}, noted)
    assert arrived["part"].shape == empty(BASE).shape
    (arrived["base"].sum() + arrived["part"].sum()).backward()
    torch.autograd.backward([sent[name] for name in leaves], [one.grad for one in leaves.values()])
    assert torch.equal(leaf.grad, torch.full_like(BASE, 2))
