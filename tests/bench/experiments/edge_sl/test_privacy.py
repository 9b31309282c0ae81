"""What the privacy experiment trains on, attacks and counts; cuts priced by hand."""

import msgspec
import numpy as np
import pytest
import torch

from bench.experiments.common.two_node_training import TrainingRun
from bench.experiments.edge_sl import privacy as edge_privacy
from bench.suite.parameter_types import decoder
from nodes.data.batching import split_holdout
from nodes.errors import DataError
from nodes.spec.job import StageSpec

SMALL = {
    "model": "nodes.zoo.small_cnn:small_cnn",
    "cut": "3",
    "cuts": ["0", "11"],
    "side": 16,
    "batch_size": 32,
    "train_samples": 160,
    "test_samples": 60,
    "auxiliary_samples": 60,
    "attacked_samples": 40,
    "attack_epochs": 15,
    "threads": 1,
}


def asked(**given):
    return msgspec.convert(SMALL | given, edge_privacy.Privacy, dec_hook=decoder(None))


@pytest.fixture
def measured(context):
    noise = {"name": "nodes.stages.noise:Noise", "options": {"std": 20.0}}
    coder = {"name": "nodes.stages.dynsplit.stage:DynSplit", "options": {"paths": [2]}}
    wanted = asked(stages={"int8": "int8", "noise": noise, "2-C": coder})
    return list(edge_privacy.privacy(wanted, context))


def test_every_cut_and_stage_is_attacked(measured):
    found = {(one.case["cut"], one.case["stage"], one.metric): one.value for one in measured}
    cases = [("0", "identity"), ("11", "identity"), ("3", "int8"), ("3", "noise"), ("3", "2-C")]
    assert list(dict.fromkeys(key[:2] for key in found)) == cases
    sent = {case: found[*case, "bytes_per_sample"] for case in cases}
    assert sent["0", "identity"] == 32 * 16 * 16 * 4
    assert sent["11", "identity"] == 128 * 2 * 2 * 4
    assert sent["3", "int8"] == 32 * 8 * 8 + 8 / 60  # one range for all test pictures, which are one message
    assert sent["3", "2-C"] == 2 * 4 * 4
    assert found["0", "identity", "test_accuracy"] == found["11", "identity", "test_accuracy"]
    assert {found[*case, "trained_pictures"] for case in cases} == {3 * 32}  # of 100 pictures, in whole batches
    for metric in ("ssim", "distance_correlation"):
        shallow, drowned = found["0", "identity", metric], found["3", "noise", metric]
        assert shallow > 0.7
        assert drowned < 0.5
    assert len({found[*case, "blind_error"] for case in cases}) == 1
    assert found["0", "identity", "reconstruction_error"] < 0.3 * found["0", "identity", "blind_error"]


def test_pictures_are_recorded_as_they_are_and_as_they_were_read(context):
    wanted = asked(cuts=["0"], stages={"int8": "int8"}, attack_epochs=1, shown=2, shown_side=4)
    pixels = [one for one in edge_privacy.privacy(wanted, context) if one.metric == "pixel"]
    shows = ["original", "cut 0", "int8 at 3"]
    assert list(dict.fromkeys(one.case["shows"] for one in pixels)) == shows
    assert len(pixels) == len(shows) * 2 * 4 * 4
    bench = TrainingRun(asked(), context, hold_out=60)
    first = edge_privacy.subset(bench.data.train, 40, context.seed).images[np.arange(1)][0]
    by_hand = first[4:8, 8:12].mean() / 255  # the second row's third place of four by four
    (same,) = [
        one.value for one in pixels if dict(one.case) == {"shows": "original", "picture": 1, "row": 1, "column": 2}
    ]
    assert same == pytest.approx(by_hand, abs=1e-6)


def test_nobody_trains_on_the_servers_pictures(context):
    labels = TrainingRun(asked(), context).data.train
    left, taken = split_holdout(labels, 60, 3)
    assert (len(left), len(taken)) == (100, 60)
    every = {image.tobytes() for image in labels.images[np.arange(160)]}
    ours = [{image.tobytes() for image in some.images[np.arange(len(some))]} for some in (left, taken)]
    assert not ours[0] & ours[1]
    assert ours[0] | ours[1] == every
    held = TrainingRun(asked(), context, hold_out=60)
    assert (len(held.data.train), len(held.held_out or ())) == (100, 60)
    with pytest.raises(DataError, match="160 of 160 pictures held out, expected 1 to 159"):
        split_holdout(labels, 160, 0)


def test_a_network_cut_elsewhere_is_the_same_network(context):
    bench = TrainingRun(asked(epochs=1), context)
    trained = bench.trained(bench.job(StageSpec()), "one")
    pictures = torch.from_numpy(np.zeros((2, 3, 16, 16), np.float32))

    def answer(segments):
        message = segments[0].source(pictures, None, assignment=0, step=0, train=False)
        return segments[1].forward(message).tensors["logits"]

    for boundary in (1, 12):
        assert torch.equal(answer(edge_privacy.recut(trained, boundary)), answer(trained.segments))


def test_paths_that_share_the_samples_cannot_be_attacked():
    with pytest.raises(ValueError, match="give the stage one path"):
        edge_privacy._code({"0": torch.ones(3, 2, 4, 4), "1": torch.ones(2, 2, 4, 4), "gate": torch.ones(5)}, 5)
    several = edge_privacy._code({"a": torch.ones(5, 2, 2), "b": torch.ones(5, 3), "n": torch.ones(5, 2).long()}, 5)
    assert several.shape == (5, 7)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"cuts": ["0", "99"]}, ("cuts", 1)),
        ({"side": 8}, ("side",)),
        ({"stages": {"odd": {"name": "nodes.stages.noise:Noise", "options": {"std": -1}}}}, ("stages", "odd")),
    ],
)
def test_what_cannot_be_attacked_is_found_before_anything_runs(wrong, where, problems_of):
    assert where in problems_of(asked(**wrong))


def test_cuts_are_priced(context):
    wanted = edge_privacy.Depth(model="nodes.zoo.small_cnn:small_cnn", cuts=("0", "3", "14"), repeats=1)
    found = {(one.case["cut"], one.metric): one.value for one in edge_privacy.depth(wanted, context)}
    assert [found[cut, "smashed_bytes"] for cut in ("input", "0", "3")] == [3 * 32 * 32 * 4, 32 * 32 * 32 * 4, 32768]
    convolutions = [3 * 32 * 32**2, 32 * 64 * 16**2, 64 * 128 * 8**2]
    whole = 9 * sum(convolutions) + 512 * 10
    assert found["3", "device_work_share"] == pytest.approx(9 * convolutions[0] / whole)
    assert found["14", "device_work_share"] == pytest.approx(9 * sum(convolutions) / whole)
    assert found["input", "device_time_share"] == found["input", "device_work_share"] == 0
    assert 0 < found["0", "device_time_share"] < found["3", "device_time_share"] < found["14", "device_time_share"] < 1
