"""The other compressors: sums written out, bytes counted by hand, training over the wire against joint autograd."""

import pytest
import torch
from oracle import staged_job

from nodes.spec.job import DataSpec, StageSpec
from nodes.stages.compressors import CircularConvolution, TopK, bind, exchanged, keys, unbind
from nodes.training.in_process import run_in_process

BOUNDARY = {"x": torch.empty(1, 4, 6, 6, device="meta")}


def made(kind, **options):
    torch.manual_seed(0)
    return kind(BOUNDARY, **options), torch.randn(10, 4, 6, 6, requires_grad=True)


def crossed(stage, value):
    """(what is restored from what crossed, the wire, the gradient that ``value`` gets of a weighted sum)."""
    codes, _ = stage.compress({"x": value})
    wire = stage.encode({name: code.detach() for name, code in codes.items()})
    received = {name: code.detach() for name, code in stage.decode(wire).items()}
    for name, code in codes.items():
        received[name].requires_grad_(code.requires_grad)
    restored = stage.restore(received)["x"]
    (restored * torch.arange(restored.numel()).view_as(restored)).sum().backward()
    for name, code in codes.items():
        if code.requires_grad:
            code.backward(received[name].grad, retain_graph=True)
    return restored, wire, value.grad


def test_four_samples_cross_as_one_under_c3_sl():
    stage, value = made(CircularConvolution, ratio=4)
    restored, wire, gradient = crossed(stage, value)
    assert {name: (tensor.dtype, tensor.nbytes) for name, tensor in wire.items()} == {
        "x": (torch.float32, 3 * 4 * 6 * 6 * 4),
        "count": (torch.int32, 4),
    }
    joint = value.detach().clone().requires_grad_()
    codes, _ = stage.compress({"x": joint})
    expected = stage.restore(codes)["x"]
    (expected * torch.arange(expected.numel()).view_as(expected)).sum().backward()
    assert torch.equal(restored, expected)
    assert torch.equal(gradient, joint.grad)


def circulant(key):
    """The matrix whose product with a vector is its circular convolution with ``key``."""
    return torch.stack([key.roll(shift) for shift in range(len(key))], dim=1)


def test_centred_c3_sl_is_what_plain_matrices_make_of_deviations_from_a_running_mean():
    sender, receiver = (made(CircularConvolution, ratio=4, centred=True)[0] for _ in range(2))
    key = [circulant(one) for one in sender.key]
    running = torch.zeros(144)
    for step in range(3):
        torch.manual_seed(step)
        value = (2 + torch.randn(10, 4, 6, 6)).requires_grad_()
        codes, _ = sender.compress({"x": value})
        wire = sender.encode({name: code.detach() for name, code in codes.items()})
        sizes = {"x": 3 * 144 * 4, "count": 4, "running mean": 144 * 4}
        assert {name: tensor.nbytes for name, tensor in wire.items()} == sizes
        received = receiver.decode(wire)
        received["x"].requires_grad_()
        restored = receiver.restore(received)["x"]
        slope = torch.randn_like(restored)
        codes["x"].backward(torch.autograd.grad((restored * slope).sum(), received["x"])[0])

        running = 0.9 * running + 0.1 * value.detach().flatten(1).mean(0)
        plain = value.detach().clone().requires_grad_()
        rows = list(plain.flatten(1) - running)
        sums = [sum(key[i] @ row for i, row in enumerate(rows[first : first + 4])) for first in (0, 4, 8)]
        expected = torch.stack([key[i % 4].T @ sums[i // 4] + running for i in range(10)]).view_as(restored)
        (expected * slope).sum().backward()
        assert torch.allclose(restored, expected, atol=1e-4)
        assert torch.allclose(value.grad, plain.grad, atol=1e-4)
    value = 2 + torch.randn(10, 4, 6, 6)
    codes, _ = sender.eval().compress({"x": value})
    assert {name: code.nbytes for name, code in codes.items()} == {"x": 3 * 144 * 4, "count": 4}
    restored = receiver.eval().restore(receiver.decode(codes))["x"].flatten(1)
    first = key[0].T @ sum(key[i] @ (value[i].flatten() - running) for i in range(4)) + running
    assert torch.allclose(restored[0], first, atol=1e-4)


def test_centred_c3_sl_has_noise_of_the_deviations_alone():
    torch.manual_seed(3)
    value = 2 * torch.randn(1, 16, 16, 16) + torch.randn(160, 16, 16, 16)  # of a power of 5, 4 is the mean's
    error = {}
    for centred in (False, True):
        stage = CircularConvolution({"x": torch.empty(1, 16, 16, 16, device="meta")}, ratio=16, centred=centred)
        for _ in range(60):
            codes, _ = stage.compress({"x": value})
            restored = stage.restore(codes)["x"]
        error[centred] = float((restored - value).square().mean())
    assert error[False] == pytest.approx(15 * 5, rel=0.15)
    assert error[True] == pytest.approx(15 * 1, rel=0.15)


def test_a_running_mean_of_another_length_is_refused():
    stage, value = made(CircularConvolution, ratio=4, centred=True)
    codes, _ = stage.compress({"x": value.detach()})
    with pytest.raises(ValueError, match="running mean: got \\[1\\], expected 144"):
        stage.decode(codes | {"running mean": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected none"):
        made(CircularConvolution, ratio=4)[0].decode(codes)


def test_only_the_largest_values_cross_and_only_they_have_a_gradient():
    stage, value = made(TopK, share=0.25)
    restored, wire, gradient = crossed(stage, value)
    assert (wire["kept"].nbytes, wire["places"].nbytes) == (10 * 36 * 2, 10 * 144 // 8)
    flat = value.detach().flatten(1)
    for row, back, slope in zip(flat, restored.flatten(1), gradient.flatten(1), strict=True):
        largest = sorted(range(144), key=lambda i: -abs(float(row[i])))[:36]
        others = [i for i in range(144) if i not in largest]
        assert torch.equal(back[largest], row[largest].half().float())
        assert not back[others].any()
        assert not slope[others].any()
        assert slope[largest].count_nonzero() >= 35


def test_places_that_do_not_fit_the_values_are_refused():
    stage, value = made(TopK, share=0.25)
    codes, _ = stage.compress({"x": value.detach()})
    wire = stage.encode(codes)
    wire["places"][0, 0] ^= 1
    with pytest.raises(ValueError, match="36 marked positions"):
        stage.decode(wire)


@pytest.mark.parametrize("kept", [30, 80])
def test_rand_topk_exchanges_its_share_for_others_drawn_evenly(kept):
    torch.manual_seed(2)
    places = torch.stack([torch.randperm(100)[:kept] for _ in range(2000)])
    found = exchanged(places, 100, 0.2)
    assert all(len(set(row)) == kept for row in found[:50].tolist())
    top = torch.zeros(2000, 100).scatter(1, places, 1.0)
    new = torch.zeros(2000, 100).scatter(1, found, 1.0) * (1 - top)
    replaceable = min(kept, 100 - kept)
    assert float(new.sum(1).mean()) == pytest.approx(0.2 * replaceable, rel=0.03)
    chance = new.sum(0) / (1 - top).sum(0)
    assert torch.allclose(chance, torch.full((100,), 0.2 * replaceable / (100 - kept)), atol=0.06)


def test_rand_topk_keeps_the_largest_at_inference():
    stage, value = made(TopK, share=0.25, random=0.5)
    plain, _ = made(TopK, share=0.25)
    drawn, largest = (one.compress({"x": value})[0]["places"] for one in (stage, plain))
    assert not torch.equal(drawn, largest)
    assert torch.equal(drawn, drawn.sort(1).values)
    assert torch.equal(stage.eval().compress({"x": value})[0]["places"], largest)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(CircularConvolution, {"ratio": 0}), (TopK, {"share": 0.0}), (TopK, {"share": 0.1, "random": 1.5})],
)
def test_wrong_options_are_refused(kind, options):
    with pytest.raises(ValueError, match="expected"):
        kind(BOUNDARY, **options)


@pytest.mark.parametrize(("stage", "options"), [("c3sl", {}), ("c3sl", {"centred": True}), ("topk", {})])
def test_a_network_learns_through_each(stage, options):
    data = DataSpec(train_samples=400, test_samples=30)
    job = staged_job(StageSpec(name=stage, options=options), data=data, batch_size=20)
    losses = run_in_process(job).losses
    assert sum(losses[-5:]) < sum(losses[:5])


def convolved(one, other):
    return [sum(one[j] * other[(i - j) % len(one)] for j in range(len(one))) for i in range(len(one))]


def test_binding_is_the_sum_of_circular_convolutions():
    torch.manual_seed(0)
    key, samples = keys(2, 7), torch.randn(3, 7)
    first = torch.tensor(convolved(samples[0].tolist(), key[0].tolist()))
    second = torch.tensor(convolved(samples[1].tolist(), key[1].tolist()))
    bound = bind(samples, key)
    assert bound.shape == (2, 7)
    assert torch.allclose(bound[0], first + second, atol=1e-5)
    assert torch.allclose(bound[1], torch.tensor(convolved(samples[2].tolist(), key[0].tolist())), atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_unbinding_finds_each_sample_among_the_others(ratio):
    torch.manual_seed(1)
    key, samples = keys(ratio, 4096), torch.randn(6, 4096)
    found = unbind(bind(samples, key), key, 6)
    likeness = torch.nn.functional.cosine_similarity(found[:, None], samples[None], dim=2)
    assert torch.equal(likeness.argmax(1), torch.arange(6))
    assert likeness.diagonal().min() > 0.9 / (1 + ratio) ** 0.5
