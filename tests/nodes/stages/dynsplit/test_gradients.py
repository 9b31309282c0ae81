"""What the gate learns from, against one program written from the paper's equations; bytes in training by hand.

The oracle has its own layers, quantisation, Gumbel noise, ratio loss and optimizer. It is given the first parameters,
the pictures, and the uniform numbers from which the noise is made.
"""

import math

import pytest
import torch
from msgspec.structs import replace
from oracle import staged_job
from torch.nn import functional as F

from nodes.errors import ModelError
from nodes.spec.job import OptimizerSpec, StageSpec
from nodes.stages.dynsplit import gate as gating
from nodes.stages.dynsplit.path import Prior
from nodes.stages.dynsplit.stage import DynSplit
from nodes.training.in_process import run_in_process
from nodes.training.segment import Segment

STEPS, COUNT, TARGET, LAMBDA, TAU = 4, 24, 0.4, 3.0, 0.7
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
CHANNELS = (4, 2)  # of codes of 4x4 pixels
BOUNDARY = {"x": torch.empty(1, 6, 8, 8, device="meta")}
READINGS = ["smashed", "chosen", "all", "losses"]


def job_of(gradient, **options):
    given = {"paths": list(CHANNELS), "hidden": 5, "target": [TARGET], "weight": LAMBDA, "gradient": gradient}
    stage = StageSpec(name="dynsplit", options=given | {"temperatures": [TAU, TAU]} | options)
    return replace(
        staged_job(stage, optimizer=OptimizerSpec(lr=LR, momentum=MOMENTUM, weight_decay=DECAY)),
        model="user_models:Undropped",
    )


def drawn():
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(STEPS, COUNT, 3, 16, 16, generator=generator)
    labels = torch.randint(0, 10, (STEPS, COUNT), generator=generator)
    return pictures, labels, torch.rand(STEPS, COUNT, 2, generator=generator)


def trained_in_two(job, monkeypatch):
    """First and last parameters of two nodes, and the bytes of each step's messages by name, there and back."""
    ue, server = Segment(job, 0), Segment(job, 1)
    first = ue.state() | server.state()
    crossed = []
    for step, (pictures, labels, uniform) in enumerate(zip(*drawn(), strict=True)):
        monkeypatch.setattr(torch, "rand_like", lambda like, uniform=uniform: uniform.to(like))
        sent = ue.source(pictures, labels, assignment=0, step=step, train=True)
        returned = server.forward(sent)
        ue.backward(returned)
        crossed.append(
            [{name: one.nbytes for name, one in message.tensors.items()} for message in (sent, returned)]
            + [int(returned.metrics["correct"])]
        )
    return first, ue.state() | server.state(), crossed


def normalised(x, dims):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + 1e-5).sqrt()


class Paper:
    """DynSplit in one program; ``gradient`` says what of the paper is read."""

    def __init__(self, first, gradient, nested=False):
        self.gradient, self.nested = gradient, nested
        self.p = {name: one.clone().requires_grad_() for name, one in first.items() if one.is_floating_point()}
        buffers = ("running_mean", "running_var", "threshold")
        self.p = {name: one for name, one in self.p.items() if not name.endswith(buffers)}
        self.velocity = {name: torch.zeros_like(one) for name, one in self.p.items()}

    def encode(self, i, a):
        """M_E of path i: convolution, batch norm, sigmoid, and eight bits."""
        p, k = self.p, f"sender.encoder{0 if self.nested else i}."
        code = F.conv2d(a, p[k + "0.weight"], p[k + "0.bias"], stride=2)
        code = normalised(code, (0, 2, 3)) * p[k + "1.weight"].view(-1, 1, 1) + p[k + "1.bias"].view(-1, 1, 1)
        code = 1 / (1 + torch.exp(-code))
        return code + ((code * 255).round() / 255 - code).detach()

    def decode(self, i, code):
        """M_D of path i: transposed convolution, batch norm, ReLU."""
        p, k = self.p, f"receiver.decoder{i}."
        y = F.conv_transpose2d(code, p[k + "0.weight"], p[k + "0.bias"], stride=2)
        return (normalised(y, (0, 2, 3)) * p[k + "1.weight"].view(-1, 1, 1) + p[k + "1.bias"].view(-1, 1, 1)).clamp_min(
            0
        )

    def log_alpha(self, a):
        """The gate's relevance scores, of both paths; those of the second are 0."""
        p = self.p
        mean = a.mean((2, 3))
        deviation = (a - mean[:, :, None, None]).square().mean((2, 3)).sqrt()
        seen = normalised(torch.cat([mean, deviation], 1), (0,))
        hidden = (seen @ p["sender.gate.relevance.0.weight"].T + p["sender.gate.relevance.0.bias"]).clamp_min(0)
        score = hidden @ p["sender.gate.relevance.2.weight"].T + p["sender.gate.relevance.2.bias"]
        if self.gradient != "losses":
            score = 2 * normalised(score, (0,))
        return torch.cat([score + p["sender.gate.offset"], torch.zeros(len(a), 1)], 1)

    def client(self, x):
        p = self.p
        return F.conv2d(x, p["features.0.weight"], p["features.0.bias"], stride=2, padding=1).clamp_min(0)

    def server(self, y):
        p = self.p
        z = F.conv2d(y, p["features.3.weight"], p["features.3.bias"], stride=2, padding=1).clamp_min(0)
        return z.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]

    def loss(self, pictures, labels, uniform):
        a = self.client(pictures)
        if self.gradient == "losses":
            by_path = self.losses_by_path(a, labels)
            gain = (by_path[1] - by_path[0]).detach()
            fit = (self.log_alpha(a.detach())[:, 0] - gain).square().mean()
            return (by_path[0].mean() + by_path[1].mean()) / 2 + fit
        noisy = self.log_alpha(a) - torch.log(-torch.log(uniform))  # Gu = -log(-log U)
        soft = torch.exp(noisy / TAU) / torch.exp(noisy / TAU).sum(1, keepdim=True)  # Eq. 4
        chosen = noisy.argmax(1)  # Eq. 3
        g = torch.eye(2)[chosen] + soft - soft.detach()  # 0 or 1, backwards by the relaxation
        if self.gradient == "all":  # Eq. 1
            y = sum(self.decode(i, self.encode(i, a)) * g[:, i].view(-1, 1, 1, 1) for i in range(2))
        else:
            y = torch.zeros_like(a)
            for i in range(2):
                (rows,) = torch.where(chosen == i)
                g_i = g[rows, i].view(-1, 1, 1, 1)
                if self.gradient == "smashed":  # Algorithm 1: M_E(A g)
                    y[rows] = self.decode(i, self.encode(i, a[rows] * g_i))
                else:
                    y[rows] = self.decode(i, self.encode(i, a[rows])) * g_i
        mu = g[:, 0].mean()
        return F.cross_entropy(self.server(y), labels) + LAMBDA * (TARGET - mu) ** 2  # Eq. 5, at the server

    def losses_by_path(self, a, labels):
        """The loss of each sample on each path, all in one batch of the server's."""
        y = torch.cat([self.decode(i, self.encode(i, a)) for i in range(2)])
        logits = self.server(y)
        chances = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
        return -torch.log(chances[torch.arange(2 * len(a)), torch.cat([labels, labels])]).view(2, -1)

    def step(self, *drawn):
        gradients = torch.autograd.grad(self.loss(*drawn), list(self.p.values()), allow_unused=True)
        with torch.no_grad():
            for (name, one), gradient in zip(self.p.items(), gradients, strict=True):
                if gradient is not None:
                    self.velocity[name] = MOMENTUM * self.velocity[name] + gradient + DECAY * one
                    one.sub_(LR * self.velocity[name])


@pytest.mark.parametrize("gradient", READINGS)
def test_two_nodes_learn_what_the_equations_say(gradient, monkeypatch):
    first, last, _ = trained_in_two(job_of(gradient), monkeypatch)
    paper = Paper(first, gradient)
    for one in zip(*drawn(), strict=True):
        paper.step(*one)
    moved = [name for name, one in paper.p.items() if (one - first[name]).abs().max() > 1e-3]
    assert {name.split(".")[1] for name in moved if name.startswith("sender.")} >= {"gate", "encoder0", "encoder1"}
    for name, one in paper.p.items():
        assert torch.allclose(last[name], one, rtol=2e-4, atol=2e-6), name


@pytest.mark.parametrize("gradient", READINGS)
def test_bytes_in_training_are_those_of_each_reading(gradient, monkeypatch):
    """Codes of 4x4 pixels: a byte a number there, four bytes back; a bit for the choice; four bytes a number."""
    _, _, crossed = trained_in_two(job_of(gradient), monkeypatch)
    for sent, returned, correct in crossed:
        there, back = dict(sent), dict(returned)
        if gradient == "losses":
            assert (there.keys(), back.pop("losses"), correct) == ({"0", "1"}, 4 * 2 * COUNT, correct)
            counts = [COUNT, COUNT]
        elif gradient == "all":
            assert (there.pop("every"), back.pop("gate")) == (COUNT // 8, 4 * 2 * COUNT)
            counts = [COUNT, COUNT]
        else:
            assert there.pop("choice") == COUNT // 8
            assert back.pop("gate", 0) == (4 * COUNT if gradient == "chosen" else 0)
            counts = [there["0"] // 64, there["1"] // 32]
            assert sum(counts) == COUNT
        assert there == {"0": counts[0] * 64, "1": counts[1] * 32}
        assert back == {"0": 4 * counts[0] * 64, "1": 4 * counts[1] * 32}


@pytest.mark.parametrize("gradient", READINGS)
def test_in_virtual_time_training_takes_the_same_messages(gradient):
    job = job_of(gradient)
    sent = Segment(job, 0, meta=True).source(
        torch.empty(COUNT, 3, 16, 16, device="meta"), None, assignment=0, step=0, train=True
    )
    labels = torch.empty(COUNT, dtype=torch.int64, device="meta")
    back = Segment(job, 1, meta=True).forward(replace(sent, labels=labels))
    every = gradient in {"all", "losses"}
    counts = (COUNT, COUNT) if every else (10, 14)  # by evenly spaced numbers, of 0.4
    choice = {"all": {"every": 3}, "losses": {}}.get(gradient, {"choice": 3})
    gate = {"smashed": {}, "chosen": {"gate": 96}, "all": {"gate": 192}, "losses": {"losses": 192}}[gradient]
    there, back = ({name: one.nbytes for name, one in message.tensors.items()} for message in (sent, back))
    assert there == {"0": counts[0] * 64, "1": counts[1] * 32} | choice
    assert back == {"0": counts[0] * 256, "1": counts[1] * 128} | gate


@pytest.mark.parametrize("paths", [2, 3])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_scores_are_fitted_to_the_differences_of_losses(paths, microbatches):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(6, paths, generator=generator, requires_grad=True)
    losses = torch.rand(6, paths, generator=generator)
    zeros, term = gating.fit_to_losses(scores)
    assert not zeros.any()
    assert term == 0
    weight = 1 / microbatches
    torch.autograd.backward([zeros, term], [weight * losses / 6, torch.tensor(weight)])
    (expected,) = torch.autograd.grad(
        weight * sum((scores[:, i] - (losses[:, -1] - losses[:, i])).square().mean() for i in range(paths - 1))
        + weight * scores[:, -1].square().mean(),
        scores,
    )
    assert torch.allclose(scores.grad[:, :-1], expected[:, :-1], atol=1e-7)


def test_with_every_path_the_loss_that_is_told_is_their_mean(monkeypatch):
    job = job_of("losses")
    ue, server = Segment(job, 0), Segment(job, 1)
    pictures, labels, _ = drawn()
    message = ue.source(pictures[0], labels[0], assignment=0, step=0, train=True)
    paper = Paper(ue.state() | server.state(), "losses")
    told = server.forward(message).metrics
    a = paper.client(pictures[0])
    assert told["loss"] == pytest.approx(paper.losses_by_path(a, labels[0]).mean().item(), rel=1e-5)
    right = [paper.server(y).argmax(1) == labels[0] for y in decoded_together(paper, a)]
    assert told["correct"] == pytest.approx(sum(float(one.sum()) for one in right) / 2)
    assert told["count"] == COUNT


def decoded_together(paper, a):
    """What the server's first layer gets on each path; it has no batch norm, so batches may be apart."""
    return [paper.decode(i, paper.encode(i, a)) for i in range(2)]


def test_codes_of_every_path_that_do_not_fit_are_refused():
    torch.manual_seed(0)
    stage = DynSplit(BOUNDARY, paths=[4, 2, 1], target=None, gradient="all").train()
    wire = stage.encode({n: code.detach() for n, code in stage.compress({"x": torch.randn(9, 6, 8, 8)})[0].items()})
    assert wire.keys() == {"0", "1", "2", "every"}
    other = DynSplit(BOUNDARY, paths=[4, 2, 1], target=None)
    for one, changed, words in [
        (stage, {"every": torch.full_like(wire["every"], 255)}, "got choice 3"),
        (stage, {"every": wire["every"][:, :-1]}, "for 9 numbers"),
        (stage, {"1": wire["1"][:-1]}, "of 3 paths"),
        (other, {}, "of 3 paths"),
    ]:
        with pytest.raises(ValueError, match=words):
            one.decode(wire | changed)


def test_losses_are_weighed_where_the_model_ends_alone():
    job = job_of("losses")
    three = replace(job, nodes=("ue", "mec", "cloud"), splits=(3, 4), stages=(*job.stages, StageSpec()))
    with pytest.raises(ModelError, match="dynsplit: weighs the losses"):
        Segment(three, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient": "none"}, "expected smashed, chosen, all or losses"),
        ({"gradient": "all", "gate": "random"}, "only of a learned gate"),
        ({"inference": "sampled", "paths": [4]}, "only of a learned gate"),
        ({"inference": "sampled", "share": 0.5}, "give no share"),
        ({"inference": "sampled", "gradient": "losses"}, "nor gradient losses"),
        ({"nested": True, "paths": [2, 4]}, "the most channels first"),
        ({"nested": True, "paths": [0, 4]}, "nested ones need coders"),
    ],
)
def test_wrong_options_are_one_error(options, words):
    with pytest.raises(ModelError, match=words):
        Segment(job_of(**{"gradient": "chosen"} | options), 0)


def made(**options):
    torch.manual_seed(0)
    return DynSplit(BOUNDARY, paths=[4, 2], **options)


def test_sampled_paths_are_drawn_by_the_gates_probabilities():
    stage, value = made(inference="sampled").eval(), torch.randn(4, 6, 8, 8)
    torch.manual_seed(1)
    with torch.no_grad():
        chosen = stage.compress({"x": value.repeat(1500, 1, 1, 1)})[0]["choice"].view(1500, 4)
    scores = stage.gate(value)
    expected = torch.exp(scores[:, 0]) / torch.exp(scores).sum(1)
    assert torch.allclose((chosen == 0).float().mean(0), expected, atol=0.04)


def test_a_sampled_path_depends_on_seed_and_step_alone():
    segment = Segment(job_of("chosen", inference="sampled"), 0)
    choices = []
    for step in (0, 0, 1):
        message = segment.source(drawn()[0][0], None, assignment=0, step=step, train=False)
        choices.append(message.tensors["choice"].tolist())
    assert choices[0] == choices[1] != choices[2]


def test_nested_paths_share_coders_and_a_code_is_the_first_channels_of_a_wider_one():
    stage, value = made(nested=True, gate="random", target=[0.5]).eval(), torch.randn(6, 6, 8, 8)
    assert {name for name, _ in stage.named_children()} == {"sender", "receiver"}
    assert set(stage.sender._modules) | set(stage.receiver._modules) == {"encoder0", "decoder0"}
    codes = []
    for stage.only in (0, 1):
        codes.append(stage.decode(stage.encode(stage.compress({"x": value})[0])))
    wide, narrow = codes[0]["0"], codes[1]["1"]
    assert torch.equal(narrow, wide[:, :2])
    cut = torch.cat([wide[:, :2], torch.zeros_like(wide[:, 2:])], 1)
    assert torch.equal(stage.restore(codes[1])["x"], stage.receiver["decoder0"](cut))
    assert torch.equal(stage.restore(codes[0])["x"], stage.receiver["decoder0"](wide))


def test_a_path_drawn_for_a_whole_batch_keeps_its_share_over_batches():
    stage = DynSplit(BOUNDARY, paths=[3, 2, 1], nested=True, gate="step", target=None).train()
    torch.manual_seed(4)
    counts = torch.zeros(3)
    for _ in range(120):
        codes, _ = stage.compress({"x": torch.zeros(2, 6, 8, 8)})
        assert codes["choice"][0] == codes["choice"][1]
        counts[codes["choice"][0]] += 1
    assert (counts / 120).tolist() == pytest.approx([1 / 3] * 3, abs=0.12)


@pytest.mark.parametrize("gradient", ["all", "losses"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_network_learns_through_nested_paths(gradient, memory_format):
    losses = run_in_process(replace(job_of(gradient, nested=True), memory_format=memory_format)).losses
    assert sum(losses[-3:]) < sum(losses[:3])


def test_bits_of_a_prior_are_those_of_the_logistic_cells():
    prior = Prior(2, 16)
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([4.0, 9.0]).view(2, 1, 1))
        prior.log_scale.copy_(torch.tensor([0.0, 0.5]).view(2, 1, 1))
    levels = torch.tensor([[[[3.0]], [[9.5]]], [[[4.0]], [[2.0]]]])
    cells = [(3.0, 4.0, 1.0), (9.5, 9.0, math.exp(0.5)), (4.0, 4.0, 1.0), (2.0, 9.0, math.exp(0.5))]
    chances = [logistic((x - m + 0.5) / s) - logistic((x - m - 0.5) / s) for x, m, s in cells]
    assert prior.bits(levels).item() == pytest.approx(-sum(map(math.log2, chances)) / 2, rel=1e-4)


def logistic(x):
    return 1 / (1 + math.exp(-x))


def test_a_rate_term_makes_codes_smaller():
    sizes = []
    for rate in (0.0, 0.005):
        job = replace(job_of("chosen", paths=[4], bits=5, lossless="entropy", rate=rate), epochs=6)
        outcome = run_in_process(job)
        sent = outcome.nodes[0].sent_uplink["activation"].payload_bytes
        sizes.append(sent - sum(epoch["link0.code_bytes"] * epoch["trained_samples"] for epoch in outcome.epochs))
    assert sizes[1] < 0.92 * sizes[0]  # at inference


def test_a_rate_needs_bits_and_coders():
    with pytest.raises(ModelError, match="rate: of paths"):
        Segment(job_of("chosen", rate=0.1, bits=None), 0)
