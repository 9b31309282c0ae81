"""Noise at a cut: how much, for what, drawn alike on the wire and in one network, and straight through backwards."""

import msgspec
import pytest
import torch
from oracle import Staged, make_job
from torch.nn import functional as F

from nodes.data.loading import load_data
from nodes.seeds import derive
from nodes.spec.job import StageSpec
from nodes.stages.noise import Noise
from nodes.training.in_process import run_in_process
from nodes.training.segment import STAGE_LAYERS, Segment

SHAPES = {"x": torch.empty(1, 4, 8, 8, device="meta"), "n": torch.empty(1, 2, dtype=torch.int64, device="meta")}


def spec(std):
    return StageSpec(name="nodes.stages.noise:Noise", options={"std": std})


@pytest.mark.parametrize("scale", [0.01, 50.0])
def test_the_noise_is_as_large_as_asked_beside_the_values_and_the_gradient_passes_it(scale):
    torch.manual_seed(0)
    value = (scale * (3 + torch.randn(100, 4, 8, 8))).requires_grad_()
    number, weights = torch.tensor([[1 << 40, -2]]), torch.randn(value.shape)
    codes, loss = Noise(SHAPES, std=0.5).compress({"x": value, "n": number})
    noise = (codes["x"] - value).detach()
    assert loss is None
    assert torch.equal(codes["n"], number)
    assert float(noise.std()) == pytest.approx(0.5 * scale, rel=0.02)
    assert abs(float(noise.mean())) < 0.02 * scale
    (codes["x"] * weights).sum().backward()
    assert torch.equal(value.grad, weights)


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused(std):
    with pytest.raises(ValueError, match="std"):
        Noise(SHAPES, std=std)


CUT = 3  # behind a dropout, which draws beside the noise


class Joint(Staged):
    """The whole network, with noise behind its layer ``CUT``."""

    def loss(self, pictures, labels):
        a = self.model.features[:CUT](pictures)
        moment = self.moment[0]
        torch.manual_seed(derive(self.job.seed, moment.step, moment.microbatch, STAGE_LAYERS))
        b = a + self.options["std"] * a.detach().std(correction=0) * torch.randn(a.shape)
        return F.cross_entropy(self.model.head(self.model.features[CUT:](b).mean((2, 3))), labels)


def test_noise_on_the_wire_is_that_of_the_whole_network():
    job = make_job("user_models:Plain", (CUT,), stages=(spec(0.5),), input_shape=(3, 16, 16), microbatches=2, steps=4)
    losses = run_in_process(job).losses
    assert losses == torch.tensor(Joint(job, load_data(job)).train()).tolist()
    assert losses != run_in_process(msgspec.structs.replace(job, stages=(StageSpec(),))).losses


def test_inference_is_noisy_too_and_each_message_and_run_draws_its_own():
    pictures = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def sent(step, train=False, seed=7, std=1.0):
        segment = Segment(make_job("user_models:Plain", (CUT,), stages=(spec(std),), seed=seed), 0)
        torch.rand(3)
        labels = torch.zeros(6, dtype=torch.int64) if train else None
        message = segment.source(pictures, labels, assignment=0, step=step, train=train)
        ((value),) = message.tensors.values()
        return value

    assert torch.equal(sent(1), sent(1))
    clear = sent(1, std=0.0)
    noise = [sent(1) - clear, sent(2) - clear]
    assert float(noise[0].std()) == pytest.approx(float(clear.std(correction=0)), rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([one.flatten() for one in noise]))[0, 1])) < 0.05
    trained = sent(1, train=True) - sent(1, train=True, std=0.0)
    assert abs(float(torch.corrcoef(torch.stack([noise[0].flatten(), trained.flatten()]))[0, 1])) < 0.05
