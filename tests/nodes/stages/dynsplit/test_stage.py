"""DynSplit over the wire against one network with the same gate in it, by joint autograd; bytes counted by hand."""

import math
from itertools import accumulate

import pytest
import torch
from msgspec.structs import replace
from oracle import Staged, StraightThrough, assert_equals_joint, first_message, staged_job
from torch.nn import functional as F

from nodes.data.loading import load_data
from nodes.errors import ModelError
from nodes.model.checkpoint import checkpoint_path
from nodes.seeds import derive
from nodes.spec.job import Job, StageSpec
from nodes.stages.dynsplit.stage import DynSplit
from nodes.training.in_process import run_in_process
from nodes.training.segment import STAGE_LAYERS, Segment

CUT = 3
BOUNDARY = {"x": torch.empty(1, 6, 8, 8, device="meta")}
PICTURES = torch.empty(24, 3, 16, 16, device="meta")


def make_job(*, changes=None, **options) -> Job:
    options = {"paths": [4, 2], "hidden": 5} | options
    stage = StageSpec(name="nodes.stages.dynsplit.stage:DynSplit", options=options)
    return staged_job(stage, **changes or {})


class Gated(Staged):
    """The whole network, with gate, coders and quantisation between its halves, written out anew.

    Only the modules themselves are the stage's, so that they begin with the same weights.
    """

    def __init__(self, job, data):
        super().__init__(job, data)
        self.routed = []  # samples by path of each step

    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        start, end = self.options.get("temperatures", (1, 1))
        self.temperature = start * (end / start) ** (epoch / max(1, self.job.epochs - 1))
        self.warm = epoch < self.options.get("warm_up", 0)

    def quantise(self, code):
        bits = self.options.get("bits", 8)
        top = 2 ** (bits or 0) - 1
        return StraightThrough.apply(code, lambda exact: (exact * top).round() / top) if bits else code

    def loss(self, pictures, labels):
        features = self.model.features
        a = features[:CUT](pictures)
        moment = self.moment[0]
        target = self.options.get("target", [0.2])
        torch.manual_seed(derive(self.job.seed, moment.step, moment.microbatch, STAGE_LAYERS))
        paths = self.options["paths"]
        extra = None
        if "gate" in self.stage.sender:
            alpha = self.stage.sender["gate"](a)
            noise = -(-(torch.rand_like(alpha) + 1e-10).log() + 1e-10).log()
            soft = ((alpha + noise) / self.temperature).softmax(1)
            hard = F.one_hot(soft.argmax(1), len(paths)).float()
            choice = soft.argmax(1)
            if self.warm:
                choice = self.by_share(torch.rand(len(a)), target)
            one_hot = hard + (soft - soft.detach())  # straight-through
            mean = one_hot.mean(0)[:-1] - torch.tensor(target)
            if self.options.get("loss") == "excess":
                mean = mean.clamp_min(0)
            extra = self.options.get("weight", 1.0) * mean.square().sum()
            gates = 1 + ((chosen := soft[torch.arange(len(a)), choice]) - chosen.detach())
        else:
            choice = self.by_share(torch.rand(len(a)), target) if len(paths) > 1 else torch.zeros(len(a)).long()
            gates = torch.ones(len(a))
        self.routed.append([int((choice == i).sum()) for i in range(len(paths))])
        b = torch.zeros_like(a)
        for i, channels in enumerate(paths):
            rows = torch.where(choice == i)[0]
            if len(rows) == 0:
                continue
            code = a[rows]
            if channels:
                code = self.quantise(self.stage.sender[f"encoder{i}"](code))
                code = self.stage.receiver[f"decoder{i}"](code)
            b = b.index_put((rows,), code)
        logits = self.model.head(features[CUT:](b * gates[:, None, None, None]).mean((2, 3)))
        task = F.cross_entropy(logits, labels)
        return self.trained_on(task, extra)

    @staticmethod
    def by_share(uniform, target):
        bounds = list(accumulate(torch.tensor(target).tolist()))
        return torch.tensor([sum(u >= bound for bound in bounds) for u in uniform.tolist()])


OPTIONS = {
    "two coders": {},
    "an identity": {"paths": [0, 1], "target": [0.4]},
    "three paths": {"paths": [6, 3, 1], "target": [0.3, 0.3]},
    "penalty alone above the target": {"loss": "excess", "target": [0.1], "weight": 3.0},
    "falling temperature": {"temperatures": [3.0, 0.3]},
    "two bits": {"bits": 2},
    "float codes": {"bits": None},
    "a warm-up": {"warm_up": 1, "target": [0.5]},
    "no spread": {"spread": None},
    "deflated": {"lossless": "deflate", "bits": 4},
    "coded by tables": {"lossless": "entropy", "bits": 4},
    "random": {"gate": "random"},
    "one path": {"paths": [3]},
    "a path that stays empty": {"gate": "random", "target": [0.0]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_over_the_wire_equals_the_joint_step_bit_for_bit(name, tmp_path):
    job = make_job(changes={"checkpoint": str(tmp_path)}, **OPTIONS[name])
    oracle = Gated(job, load_data(job))
    told = assert_equals_joint(job, oracle, (".seen",)).epochs[-1]  # the oracle codes nothing
    routed = torch.tensor(oracle.routed).float()
    assert [told[f"link0.path{i}"] for i in range(routed.shape[1])] == pytest.approx((routed[4:].mean(0) / 24).tolist())
    state = oracle.stage.state_dict()
    trained = {name for name, tensor in state.items() if not torch.equal(tensor, oracle.first[name])}
    if name == "a path that stays empty":
        assert not any("coder0" in name for name in trained)
    else:
        assert trained >= {name for name, _ in oracle.stage.named_parameters() if not name.endswith("0.bias")}


def test_two_runs_of_a_step_differ_by_their_seed_alone():
    one, two, other = (run_in_process(replace(make_job(), seed=seed, epochs=1)).losses for seed in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize(("bits", "two_channels", "four_channels"), [(8, 32, 64), (4, 16, 32), (2, 8, 16), (3, 12, 24)])
def test_each_sample_carries_its_own_code_and_one_bit(bits, two_channels, four_channels):
    _, sent = first_message(make_job(bits=bits, target=[0.4], gate="random"))  # codes of 4x4 pixels
    assert {tensor.dtype for tensor in sent.tensors.values()} == {torch.uint8}
    first, second = (len(sent.tensors[name]) for name in ("0", "1"))
    assert (first, first + second) == (first, 24)
    assert 4 <= first <= 15
    assert sent.tensors["0"].nbytes == first * four_channels
    assert (sent.tensors["1"].nbytes, sent.tensors["choice"].nbytes) == (second * two_channels, 24 // 8)
    assert sent.tensors.keys() == {"0", "1", "choice"}


@pytest.mark.parametrize(("paths", "choice_bits"), [([4], 0), ([4, 2], 1), ([4, 3, 2], 2), ([5, 4, 3, 2, 1], 3)])
def test_the_choice_takes_the_bits_of_the_number_of_paths(paths, choice_bits):
    share = 1 / len(paths)
    _, sent = first_message(make_job(paths=paths, target=[share] * (len(paths) - 1), gate="random"), 13)
    choice = sent.tensors.get("choice")
    assert (0 if choice is None else choice.nbytes) == math.ceil(13 * choice_bits / 8)
    assert sum(len(tensor) for name, tensor in sent.tensors.items() if name != "choice") == 13


def test_float_codes_and_a_path_without_coders_cross_as_float32():
    _, sent = first_message(make_job(paths=[0, 1], target=[0.5], bits=None, gate="random"))
    assert sent.tensors["0"].nbytes == len(sent.tensors["0"]) * 8 * 8 * 8 * 4
    assert sent.tensors["1"].nbytes == len(sent.tensors["1"]) * 1 * 4 * 4 * 4


@pytest.mark.parametrize("lossless", ["deflate", "entropy"])
def test_codes_without_loss_are_the_same_codes_in_fewer_bytes(lossless):
    value = {"x": torch.randn(200, 6, 8, 8, generator=torch.Generator().manual_seed(1)) / 10}
    plain, stage = (made(lossless=kind) for kind in (None, lossless))
    for one in (plain, stage):  # so that tables are learned, and estimates are the same
        torch.manual_seed(7)
        for _ in range(20):
            one.decode(one.train().encode(one.compress(value)[0]))
    expected, wire, restored = evaluated(plain, value["x"])
    wire = plain.encode(expected)
    fewer = stage.eval().encode(expected)
    assert torch.equal(evaluated(stage, value["x"])[2], restored)
    assert fewer["0"].nbytes < wire["0"].nbytes
    codes = plain.decode(wire)
    assert all(torch.equal(code, codes[name]) for name, code in stage.decode(fewer).items())


def made(**options):
    torch.manual_seed(0)
    return DynSplit(BOUNDARY, paths=[4, 2], gate="random", target=[0.5], **options)


def test_tables_are_learned_at_both_ends_and_kept(tmp_path):
    job = make_job(changes={"checkpoint": str(tmp_path)}, lossless="entropy")
    outcome = run_in_process(job)
    states = [torch.load(checkpoint_path(job, index, 2), weights_only=True)["modules"] for index in (0, 1)]
    for path, size in (("path0", 64), ("path1", 32)):
        name = path.replace("path", "levels") + ".seen"
        sent, came = states[0]["sender"][name], states[1]["receiver"][name]
        assert torch.equal(sent, came)
        samples = sum(epoch[f"link0.{path}"] * epoch["trained_samples"] for epoch in outcome.epochs)
        assert int(sent.sum()) == round(samples) * size > 0
    resumed = run_in_process(replace(job, epochs=1, checkpoint=str(tmp_path / "resumed")))
    again = run_in_process(replace(job, checkpoint=str(tmp_path / "resumed")))
    assert resumed.epochs[0]["test_accuracy"] == outcome.epochs[0]["test_accuracy"]
    assert (
        again.nodes[0].sent_uplink["activation"].payload_bytes
        < outcome.nodes[0].sent_uplink["activation"].payload_bytes
    )
    kept = replace(job, checkpoint=str(tmp_path / "resumed"))
    final = torch.load(checkpoint_path(kept, 1, 2), weights_only=True)["modules"]["receiver"]
    assert all(torch.equal(tensor, states[1]["receiver"][name]) for name, tensor in final.items())


def test_the_paths_say_what_a_sample_takes():
    stage = DynSplit(BOUNDARY, paths=[0, 3], bits=4, window=(4, 2, 2))
    assert [path.sample_bytes for path in stage.paths] == [6 * 8 * 8 * 4, math.ceil(3 * 5 * 5 * 4 / 8)]


def test_in_virtual_time_the_bytes_are_those_of_the_target_shares():
    job = make_job(target=[0.25])
    sent = Segment(job, 0, meta=True).source(PICTURES, None, assignment=0, step=0, train=True)
    assert {name: list(t.shape) for name, t in sent.tensors.items()} == {"0": [6, 64], "1": [18, 32], "choice": [1, 3]}
    sent = replace(sent, labels=torch.empty(24, dtype=torch.int64, device="meta"))
    back = Segment(job, 1, meta=True).forward(sent)
    assert {name: list(t.shape) for name, t in back.tensors.items()} == {
        "0": [6, 4, 4, 4],
        "1": [18, 2, 4, 4],
        "gate": [24],
    }


def evaluated(stage, value):
    with torch.no_grad():
        codes, _ = stage.eval().compress({"x": value})
        wire = stage.encode(codes)
        return codes, wire, stage.restore(stage.decode(wire))["x"]


def test_at_inference_the_largest_score_wins_until_a_threshold_steers():
    torch.manual_seed(0)
    stage = DynSplit(BOUNDARY, paths=[4, 2])
    value = torch.randn(40, 6, 8, 8)
    margins = stage.gate.eval()(value)[:, 0]
    codes, _, once = evaluated(stage, value)
    assert torch.equal(codes["choice"] == 0, margins > 0)
    assert torch.equal(evaluated(stage, value)[2], once)
    for wanted, used in ((0, {"1"}), (7, {"0", "1"}), (40, {"0"})):
        threshold = margins.sort(descending=True).values[wanted - 1].item() - 1e-6 if wanted else math.inf
        stage.threshold = threshold
        codes, wire, _ = evaluated(stage, value)
        assert int((codes["choice"] == 0).sum()) == wanted
        assert wire.keys() - {"choice"} == used


def test_a_share_is_held_by_the_margins_seen_of_late():
    torch.manual_seed(0)
    stage = DynSplit(BOUNDARY, paths=[4, 2], share=0.3)
    seen, first = [], 0
    for number in range(40):
        if number == 35:
            stage.share = 0.9
        value = torch.randn(40, 6, 8, 8)
        codes, wire, _ = evaluated(stage, value)
        seen = (seen + stage.gate(value)[:, 0].tolist())[-1024:]
        count = round(stage.share * len(seen))
        least = sorted(seen, reverse=True)[count - 1]
        assert (codes["choice"] == 0).tolist() == [margin >= least for margin in seen[-40:]]
        first += (number < 35) * len(wire.get("0", ()))
    assert 0.25 < first / (35 * 40) < 0.35


@pytest.mark.parametrize(("train", "first"), [(True, 6), (False, 18)])
def test_in_virtual_time_a_share_is_that_of_inference_alone(train, first):
    segment = Segment(make_job(target=[0.25], share=0.75), 0, meta=True)
    assert len(segment.source(PICTURES, None, assignment=0, step=0, train=train).tensors["0"]) == first


def choices(segment):
    pictures = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    message = segment.source(pictures, None, assignment=0, step=0, train=False)
    return (message.tensors["choice"] != 0).tolist()  # bits


def test_what_steers_the_choice_is_kept_with_the_gate(tmp_path):
    job, weights = replace(make_job(), checkpoint=str(tmp_path)), tmp_path / "weights.pt"
    segment = Segment(job, 0)
    as_it_comes = choices(segment)
    segment.outbound.threshold = math.inf
    steered = choices(segment)
    assert steered == [[True] * 5] != as_it_comes  # none takes the first path
    segment.save(1)
    torch.save(segment.state(), weights)
    resumed, served = Segment(job, 0), Segment(replace(make_job(), weights=str(weights)), 0)
    assert choices(resumed) == as_it_comes
    resumed.restore(1)
    assert choices(resumed) == choices(served) == steered


def test_what_does_not_fit_the_choice_is_refused():
    torch.manual_seed(0)
    stage = DynSplit(BOUNDARY, paths=[4, 2, 1], target=[0.3, 0.3], gate="random").eval()
    _, wire, _ = evaluated(stage, torch.randn(9, 6, 8, 8))
    flipped = wire["choice"].clone()
    flipped[0, 0] ^= 3
    for changed, words in [
        ({"choice": flipped}, "by the choices"),
        ({"choice": wire["choice"][:, :-1]}, "for 9 numbers"),
        ({"0": wire["0"][:-1]}, "for 8 numbers"),
        ({"0": wire["0"][:, :-1]}, "for 64 numbers"),
        ({"nobody": wire["0"]}, "of 3 paths"),
    ]:
        with pytest.raises(ValueError, match=words):
            stage.decode(wire | changed)
    for lacking in ({}, {"choice": wire["choice"]}, {name: wire[name] for name in ("0", "1", "2")}):
        with pytest.raises(ValueError, match="of 3 paths"):
            stage.decode(lacking)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"paths": []}, "one or more"),
        ({"paths": [4, -1]}, "one or more"),
        ({"bits": 9}, "9 bits"),
        ({"target": [0.5, 0.2]}, "a share for each of the 2 paths but the last"),
        ({"target": [1.2]}, "a share for each"),
        ({"window": [9, 2, 0]}, "8 pixels give no code"),
        ({"share": 1.2}, "share 1.2: from 0 to 1"),
        ({"share": 0.5, "gate": "random"}, "a learned gate"),
        ({"lossless": "zip"}, "expected deflate, entropy or null"),
    ],
)
def test_wrong_options_are_one_error(options, words):
    with pytest.raises(ModelError, match=words):
        Segment(make_job(**options), 0)
