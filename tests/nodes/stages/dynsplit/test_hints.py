"""What a gate sees beside means and deviations: entropies by counting, an early exit by plain SGD, bytes by hand."""

import math
from collections import Counter

import pytest
import torch
from msgspec.structs import replace
from oracle import staged_job

from nodes.errors import ModelError
from nodes.spec.job import OptimizerSpec, StageSpec
from nodes.stages.dynsplit.stage import DynSplit
from nodes.training.segment import Segment

BOUNDARY = {"x": torch.empty(1, 6, 8, 8, device="meta")}
CLASSES, COUNT, LR, MOMENTUM, DECAY = 10, 16, 0.1, 0.9, 5e-4


def made(**options):
    torch.manual_seed(0)
    return DynSplit(BOUNDARY, paths=[4, 2], **options)


def seen_by(stage, value):
    """What ``stage``'s gate sees of ``value``, before it is normalised."""
    seen = []
    handle = stage.gate.features.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    stage.compress({"x": value})
    handle.remove()
    return seen[0]


def entropy_of(levels):
    counts = Counter(levels)
    return -sum(n / len(levels) * math.log(n / len(levels)) for n in counts.values())


@pytest.mark.parametrize("training", [False, True])
def test_the_entropy_of_a_code_is_that_of_how_often_its_levels_occur(training):
    stage, value = made(code_entropy=True, gradient="all", bits=3).train(training), torch.randn(5, 6, 8, 8)
    levels = []
    for encoder in (path.coders.encoder.eval() for path in stage.paths):
        numbers = (encoder(value).detach() * 7).round().int()
        levels.append([numbers[i].flatten().tolist() for i in range(5)])
        encoder.train(training)
    seen = seen_by(stage, value)
    assert seen.shape == (5, 2 * 6 + 2)
    for path in (0, 1):
        for sample in range(5):
            assert float(seen[sample, 12 + path]) == pytest.approx(entropy_of(levels[path][sample]), rel=1e-5)
    passes = [int(path.coders.encoder[1].num_batches_tracked) for path in stage.paths]
    assert passes == [int(training)] * 2  # batch norm has seen what crosses, and not what was measured


def test_the_entropy_of_an_early_exit_is_that_of_a_softmax_over_means():
    stage, value = made(exit_classes=CLASSES).eval(), torch.randn(5, 6, 8, 8)
    weight, bias = stage.gate.exit.weight, stage.gate.exit.bias
    chances = torch.exp(value.mean((2, 3)) @ weight.T + bias)
    chances = chances / chances.sum(1, keepdim=True)
    seen = seen_by(stage, value)
    assert seen.shape == (5, 2 * 6 + 1)
    assert torch.allclose(seen[:, 12], -(chances * chances.log()).sum(1), rtol=1e-5)


def job_of(**options):
    given = {"paths": [4, 2], "hidden": 5, "gradient": "losses"}
    optimizer = OptimizerSpec(lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    job = staged_job(StageSpec(name="dynsplit", options=given | options), optimizer=optimizer)
    return replace(job, model="user_models:Undropped")


def trained(job):
    """The state of two nodes after four steps, with what crossed the cut and what the stage was given."""
    ue, server = Segment(job, 0), Segment(job, 1)
    first, given, crossed = ue.state(), [], []
    compress = ue.outbound.compress
    ue.outbound.compress = lambda values: given.append(next(iter(values.values())).detach()) or compress(values)
    generator = torch.Generator().manual_seed(3)
    for step in range(4):
        pictures = torch.randn(COUNT, 3, 16, 16, generator=generator)
        labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
        sent = ue.source(pictures, labels, assignment=0, step=step, train=True)
        returned = server.forward(sent)
        ue.backward(returned)
        given[-1] = given[-1], labels
        crossed.append([{name: one.nbytes for name, one in way.tensors.items()} for way in (sent, returned)])
    return first, ue.state() | server.state(), given, crossed


def test_an_early_exit_learns_from_the_labels_as_plain_regression_does():
    first, last, given, _ = trained(job_of(exit_classes=CLASSES))
    weight, bias = (first[f"sender.gate.exit.{name}"].clone() for name in ("weight", "bias"))
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for value, labels in given:
        means = value.mean((2, 3))
        chances = torch.exp(means @ weight.T + bias)
        error = chances / chances.sum(1, keepdim=True) - torch.eye(CLASSES)[labels]
        slopes = (error.T @ means / COUNT, error.mean(0))
        for i, (one, slope) in enumerate(zip((weight, bias), slopes, strict=True)):
            speed[i] = MOMENTUM * speed[i] + slope + DECAY * one
            one.sub_(LR * speed[i])
    assert torch.allclose(last["sender.gate.exit.weight"], weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(last["sender.gate.exit.bias"], bias, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(last["sender.gate.exit.weight"], first["sender.gate.exit.weight"], atol=1e-3)


def test_more_to_see_changes_neither_the_network_nor_what_crosses():
    _, plain, _, bare = trained(job_of())
    _, more, _, crossed = trained(job_of(exit_classes=CLASSES, code_entropy=True, convolves=True))
    network = {name for name in plain if ".gate." not in name}
    assert network < more.keys()
    assert all(torch.equal(plain[name], more[name]) for name in network)
    codes = {"0": COUNT * 4 * 16, "1": COUNT * 2 * 16}  # 4x4 numbers of a byte; back, of four
    back = {name: 4 * size for name, size in codes.items()} | {"losses": COUNT * 2 * 4}
    assert bare == crossed == [[codes, back]] * 4


def test_a_gate_that_sees_more_sends_a_bit_and_a_code_at_inference():
    job = job_of(exit_classes=CLASSES, code_entropy=True)
    sent = Segment(job, 0).source(torch.randn(COUNT, 3, 16, 16), None, assignment=0, step=0, train=False)
    assert sent.tensors.pop("choice").nbytes == COUNT / 8
    rows = {name: len(one) for name, one in sent.tensors.items()}
    assert sum(rows.values()) == COUNT
    assert {name: one.nbytes for name, one in sent.tensors.items()} == {
        name: count * {"0": 64, "1": 32}[name] for name, count in rows.items()
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exit_classes": 10, "gate": "random", "gradient": "chosen"}, "only of a learned gate"),
        ({"code_entropy": True, "bits": None}, "needs a path with coders, and bits"),
        ({"exit_classes": 1}, "expected at least 2"),
    ],
)
def test_what_no_gate_can_see_is_refused(options, words):
    with pytest.raises(ModelError, match=words):
        Segment(job_of(**options), 0)


def test_labels_that_stay_with_the_last_layers_teach_no_exit():
    stages = (StageSpec(name="dynsplit", options={"exit_classes": 10}), StageSpec())
    with pytest.raises(ModelError, match="do not cross in a U-shaped split"):
        Segment(replace(job_of(), tail=4, stages=stages), 0)
