"""The gate against the paper's equations by hand, brute force and frequencies."""

import math

import pytest
import torch

from nodes.stages.dynsplit import gate as gating
from nodes.stages.dynsplit.gate import Gate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count, paths, seed=0):
    return gating.gumbel_noise(torch.rand(count, paths, generator=generator(seed)))


def test_the_largest_noisy_score_is_a_path_as_often_as_its_softmax_says_and_noise_is_finite():
    scores = torch.tensor([1.0, 0.0, -0.7])
    chosen = gating.gumbel_softmax(scores.expand(40_000, 3), noise(40_000, 3), 0.5).argmax(1)
    wanted = [math.exp(s) / sum(math.exp(t) for t in (1, 0, -0.7)) for s in (1, 0, -0.7)]
    assert (torch.bincount(chosen) / 40_000).tolist() == pytest.approx(wanted, abs=0.01)
    assert gating.gumbel_noise(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_relaxation_is_the_softmax_of_noisy_scores_over_the_temperature(temperature):
    scores, drawn = torch.randn(6, 3, generator=generator(1)), noise(6, 3)
    for row, one, two in zip(gating.gumbel_softmax(scores, drawn, temperature), scores, drawn, strict=True):
        parts = [math.exp((a + b) / temperature) for a, b in zip(one.tolist(), two.tolist(), strict=True)]
        assert row.tolist() == pytest.approx([part / sum(parts) for part in parts], rel=1e-4)


def test_gate_and_observed_shares_are_ones_and_counts_with_the_gradient_of_probabilities():
    scores = torch.randn(8, 3, generator=generator(2), requires_grad=True)
    soft = gating.gumbel_softmax(scores, noise(8, 3), 0.7)
    choice = soft.argmax(1)
    gate, weight = gating.straight_through(soft, choice), torch.arange(8.0)
    assert gate.tolist() == [1.0] * 8
    (gradient,) = torch.autograd.grad((gate * weight).sum(), scores, retain_graph=True)
    (expected,) = torch.autograd.grad(sum(weight[i] * soft[i, choice[i]] for i in range(8)), scores)
    assert torch.equal(gradient, expected)
    scores = torch.randn(10, 3, generator=generator(3), requires_grad=True)
    soft = scores.softmax(1)
    choice = soft.argmax(1)
    observed = gating.observed_shares(soft, choice)
    assert observed.tolist() == pytest.approx([int((choice == i).sum()) / 10 for i in range(3)])
    (gradient,) = torch.autograd.grad(observed[1], scores, retain_graph=True)
    assert torch.allclose(gradient, torch.autograd.grad(soft[:, 1].mean(), scores)[0])


@pytest.mark.parametrize(
    ("observed", "target", "distance", "excess"),
    [
        ([0.5, 0.5], [0.2], 0.09, 0.09),
        ([0.1, 0.9], [0.2], 0.01, 0.0),
        ([0.2, 0.8], [0.2], 0.0, 0.0),
        ([0.5, 0.1, 0.4], [0.3, 0.3], 0.2**2 + 0.2**2, 0.2**2),  # all but the last of three paths count
    ],
)
def test_losses_of_equations_5_and_6(observed, target, distance, excess):
    observed, target = torch.tensor(observed), torch.tensor(target)
    assert gating.ratio_loss(observed, target).item() == pytest.approx(distance)
    assert gating.ratio_loss(observed, target, above_only=True).item() == pytest.approx(excess)


def test_the_temperature_falls_geometrically():
    assert [gating.temperature(e, 5, 4.0, 0.25) for e in range(5)] == pytest.approx([4, 2, 1, 0.5, 0.25])
    assert gating.temperature(0, 1, 4.0, 0.25) == 4.0


@pytest.mark.parametrize("paths", [2, 3])
def test_a_gate_with_a_spread_cannot_score_all_samples_alike(paths):
    torch.manual_seed(0)
    gate = Gate(6, paths, spread=3.0).train()
    nearly_alike = torch.rand(64, 6, 4, 4) * 1e-2 + 1
    scores = gate(nearly_alike)
    assert scores.shape == (64, paths)
    assert scores[:, -1].tolist() == [0.0] * 64
    assert scores[:, :-1].std(0, correction=0).tolist() == pytest.approx([3.0] * (paths - 1), rel=0.1)
    assert gating.mutual_information(scores.detach().softmax(1)) > 0.2


def test_a_gate_that_convolves_tells_samples_apart_that_have_the_same_means_and_deviations():
    pixels = torch.randn(8, 6, 64, generator=generator(4))
    shuffled = pixels[:, :, torch.randperm(64, generator=generator(6))]
    for convolves in (False, True):
        torch.manual_seed(0)
        gate = Gate(6, 2, convolves=convolves).eval()
        scores = [gate(one.view(8, 6, 8, 8)) for one in (pixels, shuffled)]
        assert torch.allclose(*scores, atol=1e-4) != convolves


def test_a_gate_needs_few_parameters():
    assert 6_000 <= sum(parameter.numel() for parameter in Gate(256, 2).parameters()) <= 9_000


def test_information_is_what_the_sample_tells_of_the_path_and_a_path_that_gets_nothing_is_a_collapse():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    mean = p.mean(0)
    by_hand = sum(float(p[s, k] * math.log(p[s, k] / mean[k])) for s in range(3) for k in range(2)) / 3
    assert gating.mutual_information(p) == pytest.approx(by_hand, abs=1e-6)
    assert gating.mutual_information(torch.tensor([[0.2, 0.8]] * 5)) == pytest.approx(0, abs=1e-6)
    assert gating.mutual_information(torch.eye(2)) == pytest.approx(math.log(2))
    wanted = torch.tensor([0.2, 0.8])
    assert gating.is_collapsed(torch.tensor([0.0, 1.0]), wanted)
    assert gating.is_collapsed(torch.tensor([0.97, 0.03]), wanted)
    assert not gating.is_collapsed(torch.tensor([0.1, 0.9]), wanted)
    assert not gating.is_collapsed(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("paths", [2, 3])
def test_a_threshold_steers_the_share_to_the_sample(share, paths):
    """Without one, the choice is the arg max."""
    scores = torch.randn(100, paths, generator=generator(5))
    assert torch.equal(gating.choose_paths(scores), scores.argmax(1))
    chosen = gating.choose_paths(scores, gating.threshold_for(gating.margin(scores), share))
    assert int((chosen == 0).sum()) == round(100 * share)
    rest = chosen != 0
    assert torch.equal(chosen[rest], 1 + scores[rest, 1:].argmax(1))


@pytest.mark.parametrize("target", [[0.2], [0.0], [1.0], [0.25, 0.5], [0.5, 0.0]])
def test_a_choice_that_ignores_the_samples_keeps_the_shares(target):
    chosen = gating.assign_paths(gating.evenly_spaced(40), torch.tensor(target))
    counts = torch.bincount(chosen, minlength=len(target) + 1).tolist()
    assert counts == [40 * share for share in (*target, 1 - sum(target))]
    if target == [0.2]:  # spread out, not in a row
        assert (chosen == 0).nonzero()[:, 0].diff().max() <= 10


@pytest.mark.parametrize(
    ("losses", "error", "expected"),
    [
        ([], 0.0, False),
        ([0.5], 0.0, False),
        ([0.9, 0.5], 0.0, False),
        ([0.9, 0.5, 0.45], 0.0, True),
        ([0.9, 0.5, 0.55], 0.0, True),
        ([0.5, 0.5, 0.9], 0.0, False),
        ([0.5, 0.5], 0.2, False),
        ([0.5, 0.5], -0.2, False),
        ([0.5, 0.5], -0.05, True),
    ],
)
def test_loss_and_ratio_must_both_stand_still(losses, error, expected):
    assert gating.has_converged(losses, 0.1, error) == expected
