"""The authors' code of deprune fact by fact, against one network with its filter written out anew in plain torch."""

import pytest
import torch
from msgspec.structs import replace
from oracle import Staged, StraightThrough, Unsplit, assert_equals_joint, first_message, staged_job
from torch.nn import functional as F

from nodes.data.loading import load_data
from nodes.spec.job import OptimizerSpec, StageSpec
from nodes.stages.deprune.channel_filter import FACTS, ChannelFilter
from nodes.stages.deprune.stage import Pruned
from nodes.training.in_process import run_in_process
from nodes.training.segment import Segment

CUT, MAPS = 3, 8
BOUNDARY = {"x": torch.empty(1, MAPS, 8, 8, device="meta")}
NOTED = ("sender.budget", "sender.losses", "sender.began")


class Coded(Staged):
    """Encoder, filter and decoder in the middle of the network; ``facts`` say what differs from the paper."""

    def __init__(self, job, data):
        super().__init__(job, data)
        facts = self.options["as_coded"]
        self.facts = {*FACTS} if facts is True else {*facts}
        self.f_hat = self.stage.sender["filter"].f_hat
        self.coders = self.stage.sender["encoder"], self.stage.receiver["decoder"]

    def begin_epoch(self, epoch):
        ends = [sum(epochs for epochs, _ in self.options["phases"][:number]) for number in (1, 2, 3)]
        number = sum(epoch >= end for end in ends[: len(self.options["phases"]) - 1])
        if epoch in ends and self.options.get("reset"):
            generator = torch.Generator().manual_seed(self.stage._seed + number)
            with torch.no_grad():
                if "opened" in self.facts:
                    drawn = 15 * torch.rand(MAPS, generator=generator)
                    for one in range(MAPS):
                        self.f_hat[one] = drawn[one] if self.f_hat[one] < 0.9 else 15.0
                else:
                    kept = self.kept()
                    self.f_hat[kept] = torch.randn(len(kept), generator=generator)
        self.budget = round(self.options["phases"][number][1] * MAPS)

    def kept(self):
        ranks = sorted(range(MAPS), key=lambda one: -torch.sigmoid(self.f_hat)[one].item())
        return torch.tensor(sorted(ranks[: self.budget]))

    def norm(self, value, norm, which):
        momentum, eps = (0.03, 1e-4) if "norm" in self.facts else (0.1, 1e-5)
        mean, var = norm.running_mean[which], norm.running_var[which]
        value = F.batch_norm(value, mean, var, norm.weight[which], norm.bias[which], True, momentum, eps)
        norm.running_mean[which], norm.running_var[which] = mean, var
        norm.num_batches_tracked += 1
        return value

    def loss(self, pictures, labels):
        features, (encoder, decoder), kept = self.model.features, self.coders, self.kept()
        a, convolution, up = features[:CUT](pictures), encoder[0], decoder[0]
        code = F.conv2d(a, convolution.weight[kept], convolution.bias[kept], padding=1)
        code = self.norm(code, encoder[1], kept)
        if "sigmoid" in self.facts:
            code = torch.sigmoid(code)
        f = torch.sigmoid(self.f_hat)
        still = "frozen" in self.facts and self.budget == MAPS
        if still:
            f = f.detach()
        code = code * f[kept][:, None, None]
        if "half" in self.facts:
            code = StraightThrough.apply(code, lambda exact: exact.to(torch.float16).to(torch.float32))
        if "thrice" in self.facts and not still:
            code = code * (f[kept].detach() ** 2)[:, None, None]
        b = F.conv_transpose2d(code, up.weight[kept], up.bias, padding=1)
        b = F.relu(self.norm(b, decoder[1], torch.arange(MAPS)))
        task = F.cross_entropy(self.model.head(features[CUT:](b).mean((2, 3))), labels)
        if still:
            return self.trained_on(task)
        excess = 0.1 * ((f * f if "squared" in self.facts else f).sum() - self.budget)
        return self.trained_on(task, 2.0 * (torch.exp(excess) + torch.exp(-excess)))


def make_job(folder, facts, **options):
    options = {"phases": [[2, 1 / 4], [1, 1.0]], "delta": 0.1, "epsilon": 2.0} | options
    stage = StageSpec(name="pruned", options=options | {"as_coded": facts})
    return staged_job(stage, optimizer=OptimizerSpec(lr=0.05), epochs=3, checkpoint=str(folder))


OPTIONS = {
    "opened": {"phases": [[1, 1 / 4], [1, 1.0], [1, 1 / 2]], "reset": True},
    "frozen": {"phases": [[1, 1.0], [1, 1 / 2], [1, 1 / 4]]},
}


@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_alone_is_the_oracles_and_changes_the_training(fact, tmp_path):
    job = make_job(tmp_path / "coded", [fact], **OPTIONS.get(fact, {}))
    outcome = assert_equals_joint(job, Coded(job, load_data(job)), NOTED)
    printed = run_in_process(make_job(tmp_path / "printed", False, **OPTIONS.get(fact, {})))
    assert outcome.losses != printed.losses


@pytest.mark.parametrize("name", ["deprune", "prune"])
def test_all_facts_together_are_the_oracles(name, tmp_path):
    deprune = {"phases": [[2, 1 / 4], [1, 1.0]], "reset": True}
    options = deprune if name == "deprune" else {"phases": [[1, 1.0], [1, 1 / 2], [1, 1 / 8]]}
    job = make_job(tmp_path, True, **options)
    outcome = assert_equals_joint(job, Coded(job, load_data(job)), NOTED)
    assert {epoch["link0.same"] for epoch in outcome.epochs} == {1.0}  # what is kept is the first draw


def test_uniform_strengths_saturate_so_that_training_leaves_the_order_of_the_first_draw():
    torch.manual_seed(3)
    chosen = ChannelFilter(128, uniform=True)
    first = chosen.f_hat.detach().clone()
    assert first.min() >= 0
    assert first.max() <= 15
    assert [int((first < edge).sum()) for edge in (5, 10)] == pytest.approx([128 / 3, 256 / 3], abs=16)
    order = first.argsort(descending=True)
    optimizer = torch.optim.SGD(chosen.parameters(), lr=0.01, weight_decay=5e-4)
    pull = torch.linspace(-10, 10, 128)[torch.randperm(128)]  # a task that wants other maps, more than any here
    for _ in range(300):
        optimizer.zero_grad()
        f = torch.sigmoid(chosen.f_hat)
        excess = 0.01 * ((f * f).sum() - 4)
        (1000 * (torch.exp(excess) + torch.exp(-excess)) + (pull * f).sum()).backward()
        optimizer.step()
    assert chosen.f_hat.argsort(descending=True)[:4].tolist() == order[:4].tolist()
    assert (chosen.f_hat < 0).sum() > 10  # where the sigmoid is not flat they fall


def test_opening_sets_all_to_the_largest_but_those_that_are_drawn_again():
    torch.manual_seed(0)
    chosen = ChannelFilter(5)
    chosen.f_hat.data = torch.tensor([-15.0, 0.89, 0.9, 3.0, 15.0])
    chosen.open(torch.Generator().manual_seed(9))
    drawn = [15 * one for one in torch.rand(5, generator=torch.Generator().manual_seed(9)).tolist()]
    assert chosen.f_hat.tolist() == pytest.approx([drawn[0], drawn[1], 15.0, 15.0, 15.0])


def test_bytes_of_codes_in_half_precision_with_their_strengths():
    stage = StageSpec(name="pruned", options={"phases": [[1, 1 / 4]], "as_coded": True})
    job = staged_job(stage)
    ue, there = first_message(job)
    assert {name: (list(one.shape), one.dtype) for name, one in there.tensors.items()} == {
        "maps": ([24, 2, 8, 8], torch.float16),
        "strengths": ([2], torch.float32),
        "which": ([2], torch.uint8),
    }
    assert there.grads == ("maps",)
    back = Segment(job, 1).forward(there)
    assert {name: (list(one.shape), one.dtype) for name, one in back.tensors.items()} == {
        "maps": ([24, 2, 8, 8], torch.float32)
    }
    ue.backward(back)


def test_a_frozen_filter_sends_neither_strengths_nor_its_numbers_where_all_maps_cross():
    _, there = first_message(staged_job(StageSpec(name="pruned", options={"as_coded": True})))
    assert there.tensors.keys() == {"maps"}


class Renewed(Unsplit):
    """The whole network, with a new optimizer for the second of three epochs."""

    def begin_epoch(self, epoch):
        if epoch == 1:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)


def test_a_new_optimizer_forgets_the_momentum_of_the_old_one(tmp_path):
    spec = OptimizerSpec(lr=0.02, momentum=0.9, renewed=(1,))
    job = staged_job(StageSpec(), optimizer=spec, epochs=3)
    losses = run_in_process(job).losses
    assert losses == torch.tensor(Renewed(job, load_data(job)).train()).tolist()
    assert losses != run_in_process(replace(job, optimizer=replace(spec, renewed=()))).losses
    run_in_process(replace(job, epochs=1, checkpoint=str(tmp_path)))
    assert run_in_process(replace(job, checkpoint=str(tmp_path))).losses == losses[-8:]


def test_strengths_that_are_none_are_refused():
    stage = Pruned(BOUNDARY, as_coded=["thrice"])
    with pytest.raises(ValueError, match=r"strengths: got .*expected"):
        stage.decode({"maps": torch.zeros(3, 8, 8, 8), "strengths": torch.zeros(7)})
    with pytest.raises(ValueError, match=r"maps: got .*expected"):
        Pruned(BOUNDARY, as_coded=["half"]).decode({"maps": torch.zeros(3, 8, 8, 8)})
