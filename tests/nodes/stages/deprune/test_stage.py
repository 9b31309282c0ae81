"""Deprune over the wire against one network with filter and coders in it, by joint autograd; bytes counted by hand."""

import copy

import pytest
import torch
from msgspec.structs import replace
from oracle import Staged, assert_equals_joint, first_message, staged_job
from torch.nn import functional as F

from nodes.data.loading import load_data
from nodes.model.checkpoint import checkpoint_path
from nodes.spec.job import Job, OptimizerSpec, StageSpec
from nodes.stages.deprune.stage import Pruned
from nodes.training.in_process import run_in_process
from nodes.training.segment import Segment
from nodes.wire.codec import encode
from nodes.wire.messages import Activation
from nodes.zoo.vgg import layers_before

CUT = 3
MAPS = 8
BOUNDARY = {"x": torch.empty(1, MAPS, 8, 8, device="meta")}
NOTED = ("sender.budget", "sender.losses", "sender.began")  # no parameters


def make_job(*, changes=None, **options) -> Job:
    options = {"phases": [[2, 1 / 4], [1, 1.0]]} | options
    stage = StageSpec(name="nodes.stages.deprune.stage:Pruned", options=options)
    return staged_job(stage, **{"optimizer": OptimizerSpec(lr=0.05), "epochs": 3} | (changes or {}))


class Filtered(Staged):
    """The whole network with filter and coders between its halves, one loss and one optimizer, written out anew.

    Only the weights that both begin with are the stage's.
    """

    def __init__(self, job, data):
        super().__init__(job, data)
        self.kept = []

    def begin_epoch(self, epoch):
        phases, begun, number = self.options["phases"], 0, 0
        while number + 1 < len(phases) and epoch >= begun + phases[number][0]:
            begun += phases[number][0]
            number += 1
        if epoch and epoch == begun and self.options.get("reset"):
            generator = torch.Generator().manual_seed(self.stage._seed + number)
            self.f_hat.data[self.chosen()] = torch.randn(len(self.chosen()), generator=generator)
        self.budget = max(1, round(phases[number][1] * MAPS))
        factors = [1.0, *(factor for begins, factor in self.job.optimizer.factors if begins <= epoch)]
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.optimizer.lr * factors[-1]

    @property
    def f_hat(self):
        return self.stage.sender["filter"].f_hat

    def chosen(self):
        choice = self.options.get("choice", "filter")
        if choice == "random":
            return torch.tensor(sorted(self.stage._shuffled.tolist()[: self.budget]))
        size = self.f_hat if choice == "filter" else self.stage.sender["encoder"][0].weight.abs().sum((1, 2, 3))
        ranks = sorted(range(MAPS), key=lambda number: -size[number].item())
        return torch.tensor(sorted(ranks[: self.budget]))

    def loss(self, pictures, labels):
        features = self.model.features
        a = features[:CUT](pictures)
        kept = self.chosen()
        self.kept.append(kept.tolist())
        r = self.options.get("resolution", 1)
        convolution, norm = self.stage.sender["encoder"][:2]
        up, up_norm, _ = self.stage.receiver["decoder"]
        code = F.conv2d(a, convolution.weight[kept], convolution.bias[kept], stride=r, padding=r)
        mean, var = norm.running_mean[kept], norm.running_var[kept]
        code = F.batch_norm(code, mean, var, norm.weight[kept], norm.bias[kept], True, 0.1, 1e-5)
        norm.running_mean[kept], norm.running_var[kept] = mean, var
        norm.num_batches_tracked += 1
        extra = None
        if self.options.get("choice", "filter") == "filter":
            f = torch.sigmoid(self.f_hat)
            code = code * f[kept][:, None, None]
            excess = self.options.get("delta", 0.01) * (f.sum() - self.budget)
            extra = torch.exp(excess) + self.options.get("barrier", 1.0) * torch.exp(-excess)
            extra = self.options.get("epsilon", 1000.0) * extra
        self.code = code
        code.retain_grad()
        code = Crossing.apply(code, self.options.get("code_bits"), self.options.get("gradient_bits"))
        lacking = 8 - ((code.shape[-1] - 1) * r - 2 * r + 2 + r)
        b = F.conv_transpose2d(code, up.weight[kept], up.bias, stride=r, padding=r, output_padding=lacking)
        b = F.relu(up_norm(b))
        task = F.cross_entropy(self.model.head(features[CUT:](b).mean((2, 3))), labels)
        return self.trained_on(task, extra)


class Weighed(Filtered):
    """Maps chosen by |g·l|, picture by picture, summed while all of them cross; g by autograd of the whole network."""

    def __init__(self, job, data):
        super().__init__(job, data)
        self.importance = [0.0] * MAPS

    def chosen(self):
        if self.budget == MAPS:
            return torch.arange(MAPS)
        return torch.tensor(sorted(sorted(range(MAPS), key=lambda one: -self.importance[one])[: self.budget]))

    def step(self, pictures, labels):
        total = super().step(pictures, labels)
        if self.budget == MAPS:
            for gradients, maps in zip(self.code.grad, self.code.detach(), strict=True):
                for one in range(MAPS):
                    self.importance[one] += abs(float(gradients[one].flatten() @ maps[one].flatten()))
        return total


@pytest.mark.parametrize("phases", [[[2, 1.0], [1, 1 / 4]], [[1, 1.0], [1, 1 / 2], [1, 1 / 8]]])
def test_maps_are_chosen_by_what_the_loss_would_be_without_them(phases, tmp_path):
    job = make_job(changes={"checkpoint": str(tmp_path)}, phases=phases, choice="taylor")
    oracle = Weighed(job, load_data(job))
    assert_equals_joint(job, oracle, (*NOTED, "sender.importance"))
    assert oracle.kept[-1] != list(range(oracle.budget))  # it did choose
    kept = torch.load(checkpoint_path(job, 0, 3), weights_only=True)["modules"]["sender"]["importance"]
    assert kept.tolist() == pytest.approx(oracle.importance, rel=1e-4)


def test_where_the_loss_is_linear_importance_is_the_loss_without_a_map_exactly():
    torch.manual_seed(0)
    stage = Pruned(BOUNDARY, choice="taylor")
    weights, pictures = torch.randn(3, MAPS, 8, 8), torch.randn(3, MAPS, 8, 8)
    codes, _ = stage.compress({"x": pictures})
    (weights * codes["maps"]).sum().backward()
    each = [[(weights[n, one] * codes["maps"][n, one]).sum().item() for n in range(3)] for one in range(MAPS)]
    assert stage.sender.importance.tolist() == pytest.approx([sum(map(abs, losses)) for losses in each], rel=1e-4)
    stage.eval().compress({"x": pictures})
    (stage.train().compress({"x": pictures})[0]["maps"] * 0).sum().backward()
    assert stage.sender.importance.tolist() == pytest.approx([sum(map(abs, losses)) for losses in each], rel=1e-4)


class Crossing(torch.autograd.Function):
    """What the wire does to codes, and to gradients on their way back."""

    @staticmethod
    def forward(ctx, code, bits, gradient_bits):
        ctx.bits = gradient_bits
        return rounded(code, bits)

    @staticmethod
    def backward(ctx, gradient):
        return rounded(gradient, ctx.bits), None, None


def rounded(maps, bits):
    if bits is None:
        return maps.clone()
    result = torch.empty_like(maps)
    for number in range(maps.shape[1]):
        one = maps[:, number]
        least, spread = one.min(), one.max() - one.min()
        level = ((one - least) / spread * (2.0**bits - 1)).round()
        result[:, number] = least + level * (spread / (2**bits - 1))
    return result


OPTIONS = {
    "deprune": {},
    "prune with reset": {"phases": [[1, 1.0], [1, 0.5], [1, 1 / 8]], "reset": True},
    "resolution 2": {"resolution": 2},
    "resolution 3": {"resolution": 3},
    "a budget loss that moves the filter": {"delta": 0.1, "epsilon": 5.0, "barrier": 0.5},
    "random maps": {"choice": "random"},
    "maps by magnitude": {"choice": "magnitude"},
    "four bits there": {"code_bits": 4},
    "eight bits there and back": {"code_bits": 8, "gradient_bits": 8},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_over_the_wire_equals_the_joint_step_bit_for_bit_filter_included(name, tmp_path):
    job = make_job(changes={"checkpoint": str(tmp_path)}, **OPTIONS[name])
    oracle = Filtered(job, load_data(job))
    assert_equals_joint(job, oracle, NOTED)
    state = oracle.stage.state_dict()
    trained = {key for key, first in oracle.first.items() if key not in NOTED and not torch.equal(state[key], first)}
    assert trained >= {key for key, _ in oracle.stage.named_parameters() if not key.endswith("encoder.0.bias")}
    budgets = [round(share * MAPS) for epochs, share in job.stages[0].options["phases"] for _ in range(4 * epochs)]
    assert [len(kept) for kept in oracle.kept] == budgets


class FilteredFeatures(Filtered):
    """A filter over the features (N, C) before the last layer, as those of a perceptron are; no coders."""

    def loss(self, pictures, labels):
        a, kept = self.model.features(pictures).mean((2, 3)), self.chosen()
        f = torch.sigmoid(self.f_hat)
        code = Crossing.apply(a[:, kept] * f[kept], self.options.get("code_bits"), self.options.get("gradient_bits"))
        b = torch.zeros_like(a).index_copy(1, kept, code)
        excess = 0.1 * (f.sum() - self.budget)
        task = F.cross_entropy(self.model.head(b), labels)
        return self.trained_on(task, 5.0 * (torch.exp(excess) + torch.exp(-excess)))


@pytest.mark.parametrize("bits", [{}, {"code_bits": 8, "gradient_bits": 8}])
def test_features_over_the_wire_equal_the_joint_step_too(bits, tmp_path):
    job = make_job(changes={"splits": (6,), "checkpoint": str(tmp_path)}, delta=0.1, epsilon=5.0, **bits)
    oracle = FilteredFeatures(job, load_data(job))
    outcome = assert_equals_joint(job, oracle, NOTED)
    assert not torch.equal(oracle.f_hat, oracle.first["sender.filter.f_hat"])
    assert outcome.epochs[0]["link0.budget"] == 2


def test_the_boosted_learning_rate_is_both_sides(tmp_path):
    boosted = OptimizerSpec(lr=0.02, factors=((1, 4.0), (2, 1.0)))
    job = make_job(changes={"optimizer": boosted, "checkpoint": str(tmp_path)})
    assert_equals_joint(job, Filtered(job, load_data(job)), NOTED)


@pytest.mark.parametrize(
    "options",
    [
        {"phases": [[1, 1.0], [1, 0.5], [1, 1 / 8]], "reset": True},
        {"phases": [[3, 1.0], [1, 1 / 8]], "flatness": [1, 0.9]},  # flat, if the last epoch's loss is remembered
    ],
)
def test_training_resumes_as_if_it_had_not_stopped(options, tmp_path):
    job = make_job(**options)
    whole = run_in_process(job)
    run_in_process(replace(job, epochs=2, checkpoint=str(tmp_path)))
    rest = run_in_process(replace(job, checkpoint=str(tmp_path)))
    assert rest.losses == whole.losses[-4:]
    assert [epoch["link0.budget"] for epoch in (whole.epochs[-1], rest.epochs[-1])] == [1, 1]


@pytest.mark.parametrize(("least", "budgets"), [(1.0, [2, 2, 8]), (-9.0, [2, 2, 2])])
def test_a_run_may_end_a_phase_itself(least, budgets):
    # Any loss is flat that need not fall by anything; none is that may grow tenfold.
    outcome = run_in_process(make_job(phases=[[3, 1 / 4], [1, 1.0]], flatness=[1, least]))
    assert [epoch["link0.budget"] for epoch in outcome.epochs] == budgets


def test_a_step_under_budget_4_by_hand():
    """VGG-11 at cut 5: 128 maps of 8x8, four of which cross, 16 pictures."""
    changes = {"model": "vgg_part:wide_beginning", "input_shape": (3, 32, 32), "splits": (layers_before(5),)}
    job = make_job(changes={**changes, "batch_size": 16}, phases=[[1, 1 / 32]])
    _, there = first_message(job, 16)
    assert crossing(there) == {"maps": ([16, 4, 8, 8], torch.float32), "which": ([4], torch.uint8)}
    assert there.grads == ("maps",)
    frame = b"".join(bytes(buffer) for buffer in encode(there))
    payload = 16 * 4 * 8 * 8 * 4 + 4 + 16 * 8  # maps as float32, their numbers, and labels as int64
    assert payload == 16_516
    prefix = 1 + 4 + 4 + 8 + 4
    header = int.from_bytes(frame[1:5], "little")
    assert len(frame) == prefix + header + payload
    back = Segment(job, 1).forward(there)
    assert {name: list(t.shape) for name, t in back.tensors.items()} == {"maps": [16, 4, 8, 8]}
    frame = b"".join(bytes(buffer) for buffer in encode(back))
    assert len(frame) == prefix + int.from_bytes(frame[1:5], "little") + 16_384
    assert header < 300


def crossing(message):
    return {name: (list(tensor.shape), tensor.dtype) for name, tensor in message.tensors.items()}


@pytest.mark.parametrize(("bits", "row"), [(8, 128), (4, 64), (3, 48)])
def test_quantised_bytes_both_ways_by_hand(bits, row):
    job = make_job(code_bits=bits, gradient_bits=bits)
    ue, there = first_message(job)
    maps, ranges = ([24, row], torch.uint8), ([2, 2], torch.float32)  # 2 maps of 8x8
    assert crossing(there) == {"maps": maps, "ranges": ranges, "which": ([2], torch.uint8)}
    back = Segment(job, 1).forward(there)
    assert {name: list(t.shape) for name, t in back.tensors.items()} == {"maps": [24, row], "ranges": [2, 2]}
    ue.backward(back)


def test_all_maps_cross_without_numbers():
    _, there = first_message(make_job(phases=[[1, 1.0]]))
    assert crossing(there) == {"maps": ([24, 8, 8, 8], torch.float32)}


def test_a_phase_begins_with_the_first_batch_of_training_not_with_a_test_before_it():
    torch.manual_seed(0)
    stage = Pruned(BOUNDARY, phases=[[1, 0.5], [1, 1 / 8]], reset=True)
    before = copy.deepcopy(stage.state_dict())
    stage.begin_epoch(1, 2)
    stage.eval().compress({"x": torch.randn(4, MAPS, 8, 8)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.state_dict().items())
    stage.train().compress({"x": torch.randn(4, MAPS, 8, 8)})
    assert len(stage.which()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"phases": []}, "phases"),
        ({"phases": [[1, 0.0]]}, "shares above 0"),
        ({"resolution": 0}, "resolution 0"),
        ({"choice": "best"}, "choice 'best'"),
        ({"code_bits": 9}, "1 to 8"),
        ({"choice": "taylor", "phases": [[1, 0.5]]}, "first phase with a share of 1"),
        ({"as_coded": ["sigmoid", "squares"]}, "got squares"),
        ({"as_coded": True, "code_bits": 8}, "leave out code_bits"),
        ({"shapes": {"x": torch.empty(1, 20, device="meta")}, "choice": "magnitude"}, "features have none"),
    ],
)
def test_options_that_make_no_filter(options, words):
    with pytest.raises(ValueError, match=words):
        Pruned(**{"shapes": BOUNDARY} | options)


WIRES = {
    "no maps": {"which": torch.tensor([0, 1], dtype=torch.uint8)},
    "numbers that do not ascend": {"maps": torch.zeros(3, 2, 8, 8), "which": torch.tensor([1, 1], dtype=torch.uint8)},
    "a number too high": {"maps": torch.zeros(3, 2, 8, 8), "which": torch.tensor([1, 8], dtype=torch.uint8)},
    "more maps than numbers": {"maps": torch.zeros(3, 3, 8, 8), "which": torch.tensor([1, 2], dtype=torch.uint8)},
    "maps of another size": {"maps": torch.zeros(3, 8, 4, 4)},
    "a number that is negative": {"maps": torch.zeros(3, 1, 8, 8), "which": torch.tensor([-1], dtype=torch.int32)},
    "numbers in a square": {"maps": torch.zeros(3, 1, 8, 8), "which": torch.zeros(1, 1, dtype=torch.uint8)},
    "something more": {"maps": torch.zeros(3, 8, 8, 8), "ranges": torch.zeros(8, 2)},
    "strengths that nobody reads": {"maps": torch.zeros(3, 8, 8, 8), "strengths": torch.zeros(8)},
}


@pytest.mark.parametrize("name", WIRES)
def test_a_peer_that_sends_what_are_no_maps_is_refused(name):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"got .*expected"):
        Pruned(BOUNDARY).decode(WIRES[name])


def test_each_member_answers_as_it_did_when_it_was_trained(tmp_path):
    family = {"members": (1, 2, 3), "batch_size": 8}
    job = make_job(changes=family, phases=[[1, 1.0], [1, 0.5], [1, 1 / 8]], reset=True)
    asked = iter([3, 1, 2, 1, None])
    outcome = run_in_process(job, manage=lambda told: next(asked))
    trained = [epoch["test_accuracy"] for epoch in outcome.epochs[:3]]
    assert len(set(trained)) > 1
    served = outcome.epochs[3:]
    assert [epoch["test_accuracy"] for epoch in served] == [trained[2], trained[0], trained[1], trained[0]]
    assert [epoch["member3.samples"] for epoch in served if "member3.samples" in epoch] == [40]
    assert served[0]["sent_bytes"] < served[2]["sent_bytes"] < served[1]["sent_bytes"] == served[3]["sent_bytes"]


def test_requests_switch_one_by_one_and_training_goes_on_as_it_was():
    job = make_job(changes={"members": (1, 2), "epochs": 2}, phases=[[1, 1.0], [1, 1 / 8]])
    ue = Segment(job, 0)
    pictures = torch.randn(8, 3, 16, 16)

    def sent(member, train=False):
        message = ue.source(pictures, torch.zeros(8).long(), assignment=member, step=0, train=train, save=None)
        assert isinstance(message, Activation)
        return message.tensors

    def train(save):
        there = ue.source(pictures, torch.zeros(8).long(), assignment=0, step=0, train=True, save=save)
        ue.backward(cloud.forward(there))

    cloud = Segment(job, 1)
    train(1)
    first = sent(0)
    train(2)
    last = sent(0)
    assert torch.equal(sent(1)["maps"][:, 0], sent(1)["maps"][:, 0])
    assert len(sent(1)["maps"][0]) == 8
    assert len(sent(2)["maps"][0]) == len(last["maps"][0]) == 1
    assert torch.equal(sent(2)["maps"], last["maps"])
    assert not torch.equal(sent(1)["maps"], sent(2)["maps"])
    assert torch.equal(first["maps"], sent(1)["maps"])  # a test after an epoch is of its budget
    train(None)
    assert not torch.equal(sent(0)["maps"], sent(2)["maps"])
    with pytest.raises(ValueError, match="no such member"):
        sent(3)
    with pytest.raises(ValueError, match="no such member"):
        sent(1, train=True)
