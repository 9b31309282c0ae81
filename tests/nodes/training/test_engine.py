"""Precision, memory format, schedules by step, label smoothing and clipping, against plain loops of torch."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from oracle import final_state, make_job
from torch import nn
from torch.nn import functional as F

from nodes.data.batching import batches
from nodes.data.loading import load_data
from nodes.model.factory import build_model
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec, Timing
from nodes.training.in_process import run_in_process, run_in_virtual_time
from nodes.training.segment import Segment
from nodes.training.source import Source

SMALL = {
    **{"input_shape": (3, 16, 16), "batch_size": 8, "steps": None, "epochs": 2},
    "data": DataSpec(train_samples=40, test_samples=12, augment=True),
}
STEPS = 10
EVERYTHING = OptimizerSpec(lr=0.1, schedule="one_cycle", clip_norm=0.05, clip_over="parameter")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_job(splits=(), model: str = "user_models:Normed", **changes) -> Job:
    return make_job(model, splits, **{**SMALL, **changes})


def drawn(job: Job) -> list[tuple[torch.Tensor, torch.Tensor]]:
    train = load_data(job).train
    settings = {"seed": job.seed, "shuffle": True, "augment": True, "drop_last": True}
    return [one for epoch in range(job.epochs) for one in batches(train, job.batch_size, epoch=epoch, **settings)]


def plain(job: Job, forward, *, smoothing=0.0, schedule=None, clip=None, layout=torch.contiguous_format):
    """Losses and state of a loop without anything of the engine, whose model computes by ``forward``."""
    model = build_model(job.model, job.classes, job.input_shape, job.seed).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), job.optimizer.lr, momentum=0.9, weight_decay=5e-4)
    rate = schedule(optimizer) if schedule else None
    losses = []
    for pictures, labels in drawn(job):
        logits = forward(model, pictures.contiguous(memory_format=layout))
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            clip(model.parameters())
        optimizer.step()
        if rate:
            rate.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def check(job: Job, folder, expected) -> None:
    losses, state = expected
    outcome = run_in_process(replace(job, checkpoint=str(folder)))
    assert outcome.losses == torch.tensor(losses).tolist()
    found = final_state(replace(job, checkpoint=str(folder)))
    assert found.keys() == state.keys()
    assert [name for name in state if not torch.equal(found[name], state[name])] == []


def as_it_is(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x)


def in_bfloat16(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``Normed`` with every cast written out: products in bfloat16, from parameters in float32."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.bfloat16)

    x = F.conv2d(cast(x), cast(model.first.weight), cast(model.first.bias), padding=1)
    norm = model.norm
    norm.num_batches_tracked += 1
    x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum))
    x = F.relu(x + F.conv2d(x, cast(model.second.weight), cast(model.second.bias), padding=1))
    return F.linear(x.mean((2, 3)), cast(model.head.weight), cast(model.head.bias)).float()


@pytest.mark.parametrize("splits", [(), (3,), (1, 5)], ids=str)
def test_bfloat16_is_products_in_bfloat16_of_parameters_in_float32(splits, tmp_path):
    job = small_job(splits, precision="bfloat16")
    expected = plain(job, in_bfloat16)
    check(job, tmp_path, expected)
    assert all(tensor.dtype is not torch.bfloat16 for tensor in expected[1].values())
    assert expected[0] != plain(job, as_it_is)[0]


@pytest.mark.parametrize("splits", [(), (3,)], ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_channels_last_is_that_of_torch(splits, precision, tmp_path):
    job = small_job(splits, precision=precision, memory_format="channels_last")
    forward = as_it_is if precision == "float32" else in_bfloat16
    check(job, tmp_path, plain(job, forward, layout=torch.channels_last))


@pytest.mark.parametrize("splits", [(), (3,)], ids=str)
def test_one_cycle_smoothing_and_clipping_are_those_of_torch(splits, tmp_path):
    job = small_job(splits, label_smoothing=0.2, optimizer=EVERYTHING)

    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shares[min(step, STEPS - 1)])

    def clip(parameters):
        for one in parameters:
            nn.utils.clip_grad_norm_([one], 0.05)

    cycle = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torch_cycle = torch.optim.lr_scheduler.OneCycleLR(cycle, 1.0, total_steps=STEPS, cycle_momentum=False)
    shares = []
    for _ in range(STEPS):
        shares.append(cycle.param_groups[0]["lr"])
        cycle.step()
        torch_cycle.step() if len(shares) < STEPS else None
    losses, state = plain(job, as_it_is, smoothing=0.2, schedule=schedule, clip=clip)
    job = replace(job, checkpoint=str(tmp_path))
    assert run_in_process(job).losses == pytest.approx(losses, rel=1e-5)
    found = final_state(job)
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_clipping_over_a_node_is_that_of_torch_unsplit(tmp_path):
    job = small_job(optimizer=OptimizerSpec(lr=0.02, clip_norm=0.1))
    check(job, tmp_path, plain(job, as_it_is, clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1)))


@pytest.mark.parametrize("splits", [(3,), (1, 5)], ids=str)
def test_everything_at_once_is_the_same_wherever_the_model_is_cut(splits, tmp_path):
    settings = {"precision": "bfloat16", "memory_format": "channels_last", "label_smoothing": 0.1}
    outcomes = [
        run_in_process(small_job(cuts, optimizer=EVERYTHING, checkpoint=str(tmp_path / str(len(cuts))), **settings))
        for cuts in ((), splits)
    ]
    assert outcomes[0].losses == outcomes[1].losses
    states = [
        final_state(small_job(cuts, optimizer=EVERYTHING, checkpoint=str(tmp_path / str(len(cuts))), **settings))
        for cuts in ((), splits)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_resumed_run_has_the_bits_of_one_without_a_break(tmp_path):
    settings = {"precision": "bfloat16", "memory_format": "channels_last", "label_smoothing": 0.1}
    job = small_job((3,), optimizer=EVERYTHING, checkpoint=str(tmp_path), **settings)
    whole = run_in_process(job)
    expected = final_state(job)
    for index in range(2):
        (tmp_path / f"node-{index}-2.pt").unlink()
    assert run_in_process(job).losses == whole.losses[STEPS // 2 :]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in final_state(job).items())


def test_what_crosses_a_cut_is_counted_in_its_own_bytes():
    sent = {}
    for precision in ("float32", "bfloat16"):
        outcome = run_in_process(small_job((3,), precision=precision, epochs=1))
        ue, cloud = outcome.nodes
        sent[precision] = ue.sent_uplink["activation"].payload_bytes, cloud.sent_downlink["gradient"].payload_bytes
    values = 8 * 8 * 16 * 16  # of a batch, at the cut
    labels, tests = 8 * 8, 12
    assert sent["float32"] == (5 * (4 * values + labels) + 4 * values * tests // 8, 5 * 4 * values)
    assert sent["bfloat16"] == (5 * (2 * values + labels) + 2 * values * tests // 8, 5 * 2 * values)


def test_a_stage_computes_in_float32_whatever_the_precision():
    job = small_job((3,), precision="bfloat16", stages=(StageSpec(name="float16"),))
    ue, cloud = Segment(job, 0), Segment(job, 1)
    message = ue.source(torch.randn(4, 3, 16, 16), torch.arange(4), assignment=0, step=0, train=True)
    assert {tensor.dtype for tensor in message.tensors.values()} == {torch.float16}
    gradient = cloud.forward(message)
    assert {tensor.dtype for tensor in gradient.tensors.values()} == {torch.float32}
    ue.backward(gradient)


def test_what_does_not_fit_is_refused_by_name():
    for changes, named in [
        ({"precision": "float16"}, "precision: expected float32 or bfloat16, got 'float16'"),
        ({"memory_format": "nhwc"}, "memory_format: expected contiguous or channels_last, got 'nhwc'"),
        ({"memory_format": "channels_last", "input_shape": (16,)}, "memory_format: channels_last needs pictures"),
        ({"label_smoothing": 1.5}, "label_smoothing: expected a share from 0 to 1, got 1.5"),
    ]:
        with pytest.raises(ValueError, match=named.replace("(", "\\(")):
            small_job(**changes)
    with pytest.raises(ValueError, match="precision: virtual time"):
        run_in_virtual_time(small_job(precision="bfloat16"), [Timing()], [])


def test_a_source_draws_the_order_of_an_epoch_once(monkeypatch):
    drawn = []
    made = np.random.default_rng

    def noted(seed):
        drawn.append(seed)
        return made(seed)

    job = make_job("user_models:Plain", (3,), steps=None)
    source = Source(Segment(job, 0), load_data(job))
    monkeypatch.setattr(np.random, "default_rng", noted)
    for epoch, batch in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 5)]:
        source.draw(train=True, epoch=epoch, batch=batch)
        source.draw(train=False, epoch=0, batch=batch % 2)
    orders = [seed for seed in drawn if seed[0] == 1]
    assert orders == [(1, 7, 0), (1, 7, 1), (1, 7, 1)]  # one more for a batch that does not follow
