"""What the experiments of DynSplit measure, against counts by hand and against each other."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from bench.execution.loader import load
from bench.experiments.common import two_node_training as training
from bench.experiments.common.inference import answers, restored
from bench.experiments.dynsplit import experiments as dynsplit
from bench.experiments.dynsplit import paths
from bench.suite.document import InputError
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import decoder
from netem.trace import read
from netem.trace_schedule import locate
from nodes.data.batching import batches
from nodes.model.factory import build_model, outline
from nodes.training.segment import Segment

SMALL = {
    "model": "nodes.zoo.small_cnn:small_cnn",
    "cut": "3",  # 32 channels of 16x16: codes of 8x8
    "batch_size": 32,
    "epochs": 2,
    "train_samples": 160,
    "test_samples": 90,
    "threads": 1,
}
DEAR, CHEAP = 4 * 8 * 8, 1 * 8 * 8


def asked(kind, **given):
    return msgspec.convert(SMALL | given, kind, dec_hook=decoder(None))


def found(measurements, metric, without=(), **case):
    """The one value of ``metric`` with at least this case, and none of the keys ``without``."""
    measurements = [one for one in measurements if not dict(one.case).keys() & set(without)]
    (value,) = [one.value for one in measurements if one.metric == metric and case.items() <= dict(one.case).items()]
    return value


def test_samples_arrive_in_a_random_order():
    correct = torch.arange(1000) < 100  # stored class after class; the network knows the first class alone
    answer = SimpleNamespace(correct=correct, scores=torch.zeros(1000, 2))
    stage = SimpleNamespace(paths=[SimpleNamespace(sample_bytes=4), SimpleNamespace(sample_bytes=1)])
    network = SimpleNamespace(at=lambda: answer, blindly=lambda _: answer, threshold=lambda _: 0.0, stage=stage)
    course = paths.link_timelines(network, [100.0] * 10, samples_per_s=10)["all cheap"]
    assert sum(course.accuracy) / 10 == pytest.approx(0.1, abs=0.1)  # of the first hundred: 1.0


@pytest.mark.parametrize(("cut", "coders", "rounded"), [("layer1", 30_250, 0.0016), ("layer2", 60_458, 0.0033)])
def test_the_size_of_coders_and_gate_beside_resnet50(cut, coders, rounded, context):
    measured = list(dynsplit.size(dynsplit.SizeParameters(cut=cut, options={"paths": [12, 2]}), context))
    assert found(measured, "parameters", part="coders") == coders
    assert found(measured, "parameters", part="model") == 23_528_522  # with ten classes
    gate = found(measured, "parameters", part="gate")
    added = found(measured, "added_size_share")
    assert added == pytest.approx((coders + gate) / 23_528_522)
    assert round(added, 4) == rounded


def test_a_cut_is_behind_the_last_layer_of_a_module():
    chain = outline("resnet18", 10, (3, 32, 32))
    ((value),) = chain.shapes(training.boundary_after(chain, "layer1")).values()
    assert value.shape == (1, 64, 8, 8)
    assert chain.names[training.boundary_after(chain, "layer1")].startswith("layer2.0")
    with pytest.raises(ValueError, match="no layer belongs to 'layer'"):
        training.boundary_after(chain, "layer")


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> list[str]:
    """Two seconds in each of the formats, of 3 to 1: CSV that ends within a second, and Mahimahi's."""
    folder = tmp_path_factory.mktemp("traces")
    (folder / "steps.csv").write_text("time_s,rate_bps\n0,50000\n0.5,70000\n1,20000\n1.5,20000\n2,90000\n2.2,90000\n")
    (folder / "packets").write_text("".join(f"{ms}\n" for ms in (200, 500, 1000, 2000)))
    return [str(folder / "steps.csv"), str(folder / "packets")]


@pytest.fixture(scope="module")
def swept(context_in: Callable[[Path], Context], tmp_path_factory, traces: list[str]) -> list[Measurement]:
    """One sweep for all that look at it."""
    options = {"paths": [4, 1], "weight": 3.0}
    wanted = asked(
        dynsplit.TargetSweep,
        options=options,
        targets=[0.0, 0.5, 0.9],
        steer=0.5,
        shares=[0.0, 1.0],
        rates_bps=[1e5, 3e4],
        traces=traces,
        budget_bytes_per_sample=[160, 40],
        alone=[1],
        samples_per_s=20,
    )
    return list(dynsplit.sweep(wanted, context_in(tmp_path_factory.mktemp("swept"))))


def test_bytes_are_those_of_the_paths_that_were_taken(swept):
    for target in (0.0, 0.5, 0.9):
        dear = round(90 * found(swept, "ratio", target=target))
        choices = 12  # 90 bits
        by_hand = (dear * DEAR + (90 - dear) * CHEAP + choices) / 90
        assert found(swept, "bytes_per_sample", target=target) == pytest.approx(by_hand)
    assert found(swept, "alone_bytes_per_sample", channels=1) == CHEAP
    assert found(swept, "choice_bits", target=0.5) == 1


def test_sampled_paths_have_bytes_and_a_ratio_of_their_own(swept):
    for target in (0.0, 0.5, 0.9):
        ratio = found(swept, "sampled_ratio", target=target)
        by_hand = ratio * DEAR + (1 - ratio) * CHEAP + 12 / 90
        assert found(swept, "sampled_bytes_per_sample", target=target) == pytest.approx(by_hand)
        assert found(swept, "sampled_ratio_error", target=target) == pytest.approx(abs(ratio - target))
        last = found(swept, "epoch_ratio", target=target, epoch=2)
        assert found(swept, "last_epoch_ratio_error", target=target) == pytest.approx(abs(last - target))
    ratios = [found(swept, name, target=0.5) for name in ("ratio", "sampled_ratio")]
    assert ratios[0] != ratios[1]


def test_a_gate_is_held_against_what_the_first_path_gains():
    """Four samples; the first path answers the first two rightly, the second path the last one."""
    labels = np.array([0, 1, 0, 1])
    dear = answered([[3.0, 0.0], [0.0, 3.0], [0.0, 3.0], [1.0, 0.0]], labels)
    cheap = answered([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0], [0.0, 3.0]], labels)
    network = SimpleNamespace(test=SimpleNamespace(labels=labels))
    scores = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0], [-1.0, 0.0]])
    measured = list(paths._against_losses(network, 0.5, scores, [dear, cheap]))
    both = zip(cheap.logits.tolist(), dear.logits.tolist(), labels, strict=True)
    gains = [loss(one, label) - loss(other, label) for one, other, label in both]
    assert found(measured, "gain_correlation") == pytest.approx(np.corrcoef([1, 2, 0.5, -1], gains)[0, 1], abs=1e-5)
    assert found(measured, "oracle_accuracy") == 3 / 4


def loss(logits, label):
    return math.log(sum(map(math.exp, logits))) - logits[label]


def answered(logits, labels):
    logits = torch.tensor(logits)
    return SimpleNamespace(logits=logits, correct=logits.argmax(1) == torch.from_numpy(labels))


def test_a_network_of_nested_paths_is_measured_at_each_of_its_widths(context):
    options = {"paths": [4, 2, 1], "nested": True, "gate": "random", "target": None}
    wanted = asked(dynsplit.Single, stage={"name": "dynsplit", "options": options}, epochs=1)
    measured = list(dynsplit.single(wanted, context))
    for channels in (4, 2, 1):
        assert 0 <= found(measured, "width_accuracy", channels=channels) <= 1
        choices = math.ceil(90 * 2 / 8)
        assert found(measured, "width_bytes_per_sample", channels=channels) == channels * 64 + choices / 90


def test_pictures_cross_at_the_input_in_the_bytes_of_their_files(context):
    wanted = asked(dynsplit.Single, stage={"name": "picture", "options": {"format": "raw"}}, cut="input", epochs=1)
    measured = list(dynsplit.single(wanted, context))
    assert found(measured, "bytes_per_sample") == 3 * 32 * 32 + 3
    assert found(measured, "training_bytes_per_sample") == 3 * 32 * 32 + 3  # no gradient returns
    whole = asked(dynsplit.Single, epochs=1)
    trained = training.TrainingRun(whole, context)
    alone = trained.trained(trained.whole(1), "whole")
    assert found(measured, "test_accuracy") == pytest.approx(alone.outcome.epochs[-1]["test_accuracy"], abs=0.03)


def test_bytes_in_training_are_codes_and_their_gradients(swept):
    for target in (0.0, 0.5, 0.9):
        ratios = [found(swept, "epoch_ratio", target=target, epoch=epoch) for epoch in (1, 2)]
        share = sum(ratios) / 2
        codes = share * DEAR + (1 - share) * CHEAP + 1 / 8
        gradients = 4 * (share * DEAR + (1 - share) * CHEAP) + 4  # float32, and the gate's own
        assert found(swept, "training_bytes_per_sample", target=target) == pytest.approx(codes + gradients)


def test_the_ends_of_the_steered_curve_are_the_paths_alone(swept):
    for share, path in ((0.0, 2), (1.0, 1)):
        alone = found(swept, "path_accuracy", target=0.5, path=path)
        assert found(swept, "curve_accuracy", target=0.5, share=share) == alone
        assert found(swept, "curve_blind_accuracy", target=0.5, share=share) == alone
    assert found(swept, "curve_bytes_per_sample", target=0.5, share=1.0) == pytest.approx(DEAR + 12 / 90)


def test_what_a_link_cannot_carry_waits(swept):
    def of(metric, policy):
        return found(swept, metric, without=["trace"], policy=policy)

    late = {policy: of("late_seconds_share", policy) for policy in ("follow", "all dear", "all cheap")}
    assert late == {"follow": late["follow"], "all dear": 0.5, "all cheap": 0.0}  # only the second rate is too low
    assert of("waiting_at_end_bytes", "all dear") == 20 * (DEAR + 1 / 8) - 3e4 / 8
    assert of("waiting_at_end_bytes", "follow") <= of("waiting_at_end_bytes", "all dear")


@pytest.mark.parametrize("trace", ["steps", "packets"])
def test_a_trace_is_followed_second_by_second(swept, trace):
    bits = [60_000, 20_000] if trace == "steps" else [3 * 12_000, 12_000]
    room = [160 * 2 * 20 * part / sum(bits) for part in bits]  # bytes, so that 160 are there for each of 20 samples
    sent = []
    for second, expected in enumerate(room):
        here = {"trace": trace, "second": second}
        assert found(swept, "link_bytes_per_s", of="capacity", **here) == pytest.approx(expected)
        sent.append(found(swept, "link_bytes_per_s", of="sent", **here))
    assert all(20 * CHEAP <= bytes_per_s - 20 / 8 <= 20 * DEAR for bytes_per_s in sent)
    followed = found(swept, "link_bytes_per_sample", trace=trace, budget_bytes_per_sample=160, policy="follow")
    assert followed == pytest.approx(sum(sent) / 40)
    waiting = 0.0
    for handed, carried in zip(sent, room, strict=True):
        waiting = max(0.0, waiting + handed - carried)
    assert found(
        swept, "waiting_at_end_bytes", trace=trace, budget_bytes_per_sample=160, policy="follow"
    ) == pytest.approx(waiting)
    assert (
        found(swept, "late_seconds_share", trace=trace, budget_bytes_per_sample=40, policy="all cheap") == 1.0
    )  # 64 bytes of 40


def test_packaged_traces_have_a_rate_for_each_second():
    rates = paths.second_rates("wifi")
    assert len(rates) == 60
    assert sum(rates) == pytest.approx(8 * read(locate("wifi")).delivered_bytes)


@pytest.mark.parametrize("name", ["bytes", "training_bytes"])
def test_slopes_and_line_follow_from_the_bytes(name, swept):
    sent = {target: found(swept, f"{name}_per_sample", target=target) for target in (0.0, 0.5, 0.9)}
    assert found(swept, f"{name}_slope", part="below 0.5") == pytest.approx((sent[0.5] - sent[0.0]) / 0.5)
    assert found(swept, f"{name}_slope", part="above 0.5") == pytest.approx((sent[0.9] - sent[0.5]) / 0.4)
    assert found(swept, f"{name}_linearity") == pytest.approx(paths.determination(sent))


def test_how_straight_points_lie():
    assert paths.determination({0.0: 1.0, 0.5: 2.0, 1.0: 3.0}) == pytest.approx(1)
    assert paths.determination({0.0: 1.0, 0.5: 1.0, 1.0: 1.0}) == 1
    assert paths.determination({0.0: 0.0, 0.5: 1.0, 1.0: 0.0}) == pytest.approx(0)


def test_what_was_measured_before_a_kill_is_not_trained_again(context, monkeypatch):
    wanted = asked(dynsplit.TargetSweep, options={"paths": [4, 1]}, targets=[0.2], epochs=1)
    before = list(dynsplit.sweep(wanted, context))
    monkeypatch.setattr(training, "run_in_process", None)
    assert list(dynsplit.sweep(wanted, context)) == before
    assert not list(context.scratch.rglob("*.pt"))


def test_the_accuracy_of_a_restored_network_is_that_of_its_last_epoch(context):
    wanted = asked(dynsplit.Single, stage={"name": "nodes.stages.compressors:TopK", "options": {"share": 0.1}})
    bench = training.TrainingRun(wanted, context)
    trained = bench.trained(bench.job(wanted.spec), "single")
    again = answers(restored(trained.job), trained.data.test)
    assert again.accuracy == pytest.approx(trained.outcome.epochs[-1]["test_accuracy"])
    assert again.bytes_per_sample == pytest.approx(32 * 256 / 8 + 2 * round(0.1 * 32 * 256))


def test_pretraining_gives_every_training_its_first_weights(context):
    wanted = asked(dynsplit.TargetSweep, options={"paths": [0, 1]}, pretrain_epochs=2, epochs=1)
    bench = training.TrainingRun(wanted, context)
    path, bench.weights = bench.weights, None
    weights = torch.load(path, weights_only=True)
    (whole,) = bench.trained(bench.whole(2), "again").segments
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.state().items())
    bench.weights = path
    job = msgspec.structs.replace(
        bench.job(wanted.spec(target=[0.2])),
        optimizer=msgspec.structs.replace(wanted.optimizer, lr=0.0, weight_decay=0.0),
    )
    for segment in bench.trained(job, "still").segments:
        for name, tensor in segment.state().items():
            running = "running" in name or "num_batches" in name
            assert name.startswith(("sender.", "receiver.")) or running or torch.equal(tensor, weights[name])


def test_pictures_are_counted_in_each_epoch_of_pretraining_and_training(context):
    wanted = asked(dynsplit.TargetSweep, options={"paths": [0, 1]}, targets=[0.2, 0.5], alone=[1], pretrain_epochs=1)
    wanted = msgspec.structs.replace(wanted, train_samples=100)  # 3 whole batches of 32 an epoch
    for _ in range(2):  # the second time from what an interrupted run keeps
        measured = list(dynsplit.sweep(wanted, context))
        for case in ({"target": 0.2}, {"target": 0.5}, {"channels": 1}):
            assert found(measured, "trained_pictures", **case) == (1 + 2) * 3 * 32


def test_training_and_pretraining_begin_with_the_weights_of_a_file(context, tmp_path):
    given = build_model("nodes.zoo.small_cnn:small_cnn", 10, (3, 32, 32), seed=8).state_dict()
    torch.save(given, tmp_path / "weights.pt")
    wanted = asked(dynsplit.Single, weights=str(tmp_path / "weights.pt"))
    bench = training.TrainingRun(wanted, context)
    for job in (bench.job(wanted.spec), bench.whole(1)):
        begun = {
            name: tensor for index in range(len(job.nodes)) for name, tensor in Segment(job, index).state().items()
        }
        assert begun.keys() == given.keys()
        assert all(torch.equal(tensor, given[name]) for name, tensor in begun.items())


@pytest.mark.parametrize(("epsilon", "epochs"), [(1e-9, 3), (99.0, 2)])
def test_a_training_that_has_settled_ends_and_is_what_as_many_epochs_make(epsilon, epochs, context):
    wanted = asked(dynsplit.TargetSweep, options={"paths": [4, 1]}, targets=[0.5], epsilon=epsilon, epochs=3)
    measured = list(dynsplit.sweep(wanted, context))
    assert found(measured, "epochs") == epochs
    plain = asked(dynsplit.TargetSweep, options={"paths": [4, 1]}, targets=[0.5], epochs=epochs)
    bench = training.TrainingRun(plain, context)
    trained = bench.trained(bench.job(plain.spec(target=[0.5])), "plain")
    for number, epoch in enumerate(trained.outcome.epochs, start=1):
        assert found(measured, "epoch_accuracy", epoch=number) == epoch["test_accuracy"]
        assert found(measured, "epoch_ratio", epoch=number) == epoch["link0.path0"]
    assert answers(trained.segments, trained.data.test).accuracy == pytest.approx(found(measured, "test_accuracy"))


def test_coders_are_fitted_before_and_the_network_is_the_pretrained_one(context):
    wanted = asked(dynsplit.TargetSweep, options={"paths": [0, 3]}, pretrain_epochs=1, coder_epochs=8, epochs=1)
    bench = training.TrainingRun(wanted, context)
    whole = torch.load(bench.weights, weights_only=True)
    weights = torch.load(dynsplit.fitted(bench, "here", wanted.spec(), 8), weights_only=True)
    assert {name: tensor for name, tensor in weights.items() if name in whole}.keys() == whole.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.items())
    assert {name.split(".")[1] for name in weights.keys() - whole.keys()} == {"encoder1", "decoder1"}
    job = msgspec.structs.replace(bench.job(wanted.spec()), weights=bench.weights)
    bare = errors_of_coders(Segment(job, 0), Segment(job, 1), bench)
    job = msgspec.structs.replace(job, weights=dynsplit.fitted(bench, "here", wanted.spec(), 8))
    assert errors_of_coders(Segment(job, 0), Segment(job, 1), bench) < 0.7 * bare


def test_a_teacher_is_the_pretrained_network_and_its_logits_are_counted(context, tmp_path, monkeypatch):
    given = {"stage": {"name": "dynsplit", "options": {"paths": [3]}}, "pretrain_epochs": 1, "epochs": 1}
    jobs, sent, run = [], [], training.run_in_process
    for extra in ({}, {"distillation": {"temperature": 2, "weight": 0.5}}):
        monkeypatch.setattr(training, "run_in_process", lambda job, *rest: jobs.append(job) or run(job, *rest))
        folder = msgspec.structs.replace(context, scratch=tmp_path / str(len(extra)))
        measured = list(dynsplit.single(asked(dynsplit.Single, **given, **extra), folder))
        sent.append(found(measured, "training_bytes_per_sample"))
    pretraining, plain, _, taught = jobs
    assert pretraining.distillation is plain.distillation is None
    assert (taught.distillation.temperature, taught.distillation.weight) == (2, 0.5)
    assert taught.distillation.teacher == taught.weights
    assert sent[1] - sent[0] == pytest.approx(10 * 4)


def errors_of_coders(ue, server, bench):
    """How far what the second path gives back is from what it is given, per value."""
    ue.outbound.random_share = 0.0
    seen, compress = {}, ue.outbound.compress
    ue.outbound.compress = lambda values: seen.update(values) or compress(values)
    pictures, _ = next(iter(batches(bench.data.test, 40, seed=0, epoch=0, shuffle=False, augment=False)))
    message = ue.source(pictures, None, assignment=0, step=0, train=False)
    stage = server.inbound.eval()
    with torch.no_grad():
        (back,) = stage.restore(stage.decode(message.tensors)).values()
    (given,) = seen.values()
    return float((back - given).square().mean())


def test_entropies_by_path_add_up_to_that_of_all_samples(context):
    wanted = asked(dynsplit.TargetSweep, options={"paths": [0, 1]}, targets=[0.4], epochs=1)
    measured = list(dynsplit.rationale(wanted, context))
    bench = training.TrainingRun(wanted, context)
    original = bench.trained(bench.whole(1), "original").segments
    for name, pictures in (("train", bench.data.train), ("test", bench.data.test)):
        counts = [found(measured, "samples", data=name, path=path) for path in (1, 2)]
        assert counts[0] == round(0.4 * len(pictures))
        assert sum(counts) == len(pictures)
        p = answers(original, pictures).logits.softmax(1).double()
        whole = float(-(p * p.clamp_min(1e-30).log()).sum(1).mean())
        parts = [found(measured, "complexity_nats", data=name, path=path) for path in (1, 2)]
        mean = sum(count * part for count, part in zip(counts, parts, strict=True)) / len(pictures)
        assert mean == pytest.approx(whole, rel=1e-4)


CHAIN = "run: pipeline.chain, mode: in-process, parameters: {model: small_cnn, nodes: 3, splits: [4, 8], stage: "
FEDERATION = "run: edge_sl.course, mode: in-process, parameters: {model: small_cnn, cut: 5, rounds: 1, stage: "


@pytest.mark.parametrize(
    ("start", "stage", "fits"),
    [
        (CHAIN, "[STAGE, identity]", False),
        (CHAIN, "[identity, STAGE]", True),
        (FEDERATION, "STAGE", False),
    ],
)
def test_a_stage_that_weighs_losses_needs_the_end_of_a_chain(start, stage, fits, tmp_path):
    stage = stage.replace("STAGE", "{name: dynsplit, options: {paths: [4, 2], gradient: losses}}")
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\ndataset: digits\nexperiments:\n  - {{name: one, {start}{stage}}}}}\n")
    if fits:
        load([str(file)])
        return
    with pytest.raises(InputError) as error:
        load([str(file)])
    assert any("weighs the losses" in one for one in error.value.lines), error.value.lines


@pytest.mark.parametrize(
    ("given", "line", "words"),
    [
        ("cut: layer9", 7, "no layer belongs to 'layer9'"),
        ("options: {paths: [12, 0], bits: 9}", 7, "9 bits"),
        ("cut: fc", 6, "must be one tensor"),
        ("targets: [1.5]", 7, "targets[0]: "),
        ("traces: [wifi, nowhere]", 7, "no trace 'nowhere'"),
        ("weights: nowhere.pt", 7, "no file 'nowhere.pt'; give a file or 'torchvision'"),
        ("coder_epochs: 3", 7, "give pretrain_epochs as well"),
        ("epsilon: 0.1\n      optimizer: {schedule: cosine}", 7, "optimizer.schedule constant"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_runs(given, line, words, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"name: mine\nexperiments:\n  - name: one\n    run: dynsplit.sweep\n    mode: in-process\n    parameters:\n"
        f"      {given}\n      model: resnet18\n"
    )
    with pytest.raises(InputError) as error:
        load([str(file)])
    assert any(f"mine.yaml:{line}" in one and words in one for one in error.value.lines), error.value.lines
