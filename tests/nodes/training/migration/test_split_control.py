"""Nodes that decide during training where layers go: they follow the links, and nothing of the training changes."""

from itertools import combinations_with_replacement, pairwise
from math import inf

import pytest
from msgspec.structs import replace
from oracle import assert_equals_unsplit, make_job

from nodes.data.loading import load_data
from nodes.errors import ModelError, ProtocolError
from nodes.runtime.actions import Send
from nodes.spec.job import Control, Job, OptimizerSpec
from nodes.spec.policy import LinkSpec, Policy
from nodes.splitting.search import path_cost
from nodes.training.build import build
from nodes.training.in_process import run_in_process
from nodes.training.migration.segment import MovingSegment
from nodes.training.migration.split_control import TrainingControl, step_bytes
from nodes.training.source import Train
from nodes.wire.messages import Begin, Proposal, SplitChange

FAST, SLOW = LinkSpec(rate_bps=1e9, delay_s=0.001), LinkSpec(rate_bps=1e6, delay_s=0.001)
CNN, LAYERS = "nodes.zoo.small_cnn:small_cnn", 16


def job_of(links, layer_s=(0.1, 0.02, 0.001), splits=(3, 6), **changes) -> Job:
    control = {name: changes.pop(name) for name in ("policy", "every_steps", "horizon_steps") if name in changes}
    rows = tuple((seconds,) * LAYERS for seconds in layer_s)
    return make_job(CNN, splits, control=Control(layer_s=rows, links=links, **control), **changes)


def best(job: Job, links: tuple[LinkSpec, ...], current: tuple[int, ...]) -> tuple[int, ...]:
    """The splits of least cost in a step of ``job``, told by hand from the sizes alone; of equals the later ones."""
    sizes, horizon = step_bytes(job), job.control.horizon_steps

    def cost_s(splits) -> float:
        total = path_cost(job.control.layer_s, [[0.0] * (LAYERS + 1)] * len(splits), splits)
        for link, split, before in zip(links, splits, current, strict=True):
            if split < LAYERS:
                total += 8 * (sizes.crossing[split] + sizes.gradients[split]) / link.rate_bps + 2 * link.delay_s
            low, high = sorted((split, before))
            if moved := sum(sizes.parameters[low:high]):
                total += (8 * moved / link.rate_bps + link.delay_s) / horizon
        return round(total, 12)

    every = combinations_with_replacement(range(LAYERS + 1), len(current))
    return min(every, key=lambda splits: (cost_s(splits), [-split for split in splits]))


def layers_held(outcome) -> list[int]:
    return [node.layers for node in outcome.nodes]


@pytest.mark.parametrize(
    "optimizer", [OptimizerSpec(lr=0.02, momentum=0.9), OptimizerSpec(name="adam", lr=0.002)], ids=lambda o: o.name
)
def test_a_link_made_slow_moves_layers_and_the_training_equals_one_that_never_moved(optimizer, tmp_path):
    fast, slow = (FAST, FAST), (SLOW, FAST)
    job = job_of({0: fast, 8: slow}, (0.03, 0.02, 0.001), optimizer=optimizer)
    outcome = assert_equals_unsplit(job, tmp_path)
    quick = best(job, fast, job.splits)
    assert quick == (0, 0)  # the cloud computes, as long as the picture is there at once
    assert layers_held(outcome) == held_by(best(job, slow, quick)) != held_by(quick)
    assert outcome.nodes[0].sent_uplink["split-change"].messages == 2
    stays = run_in_process(replace(job, control=None))
    assert outcome.losses == stays.losses


def held_by(splits) -> list[int]:
    done = [0, *splits, LAYERS]
    return [after - before for before, after in pairwise(done)]


@pytest.mark.parametrize("links", [(FAST, SLOW), (SLOW, SLOW), (LinkSpec(rate_bps=3e7), LinkSpec(rate_bps=5e7))])
@pytest.mark.parametrize("layer_s", [(0.1, 0.02, 0.001), (0.003, 0.001, 0.0005)])
def test_the_nodes_settle_where_trying_all_splits_finds_the_least_cost(links, layer_s):
    job = job_of({0: links}, layer_s, epochs=1, steps=4)
    assert layers_held(run_in_process(job)) == held_by(best(job, links, job.splits))


def test_without_a_better_split_nothing_moves_and_little_is_told():
    job = job_of({0: (FAST, FAST)}, splits=(0, 0), policy=Policy(min_change=0.1), epochs=1)
    outcome = run_in_process(job)
    assert "split-change" not in outcome.nodes[0].sent_uplink
    assert "parameters" not in outcome.nodes[2].sent_downlink
    assert outcome.nodes[2].sent_downlink["sci"].messages == 1
    assert outcome.nodes[2].sent_downlink["proposal"].messages > 3


def test_hysteresis_a_switch_cost_and_dear_moves_each_hold_layers_where_they_are():
    links, layer_s = {0: (FAST, FAST), 6: (SLOW, FAST)}, (0.03, 0.02, 0.001)
    willing = job_of(links, layer_s, (0, 0), epochs=1)
    there = layers_held(run_in_process(willing))
    assert there != [0, 0, LAYERS]
    for changes in ({"policy": Policy(hysteresis=50.0)}, {"policy": Policy(switch_s=60.0)}):
        assert layers_held(run_in_process(job_of(links, layer_s, (0, 0), epochs=1, **changes))) == [0, 0, LAYERS]
    now_or_never = job_of({0: (LinkSpec(rate_bps=2e6), FAST)}, (0.01, 0.009, 0.009), horizon_steps=1, splits=(16, 16))
    assert layers_held(run_in_process(replace(now_or_never, epochs=1))) == [LAYERS, 0, 0]


def test_parameters_are_counted_as_they_travel():
    for optimizer in (OptimizerSpec(), OptimizerSpec(momentum=0.0), OptimizerSpec(name="adamw")):
        job = job_of({0: (FAST, FAST)}, optimizer=optimizer, splits=(16, 16), epochs=1, steps=1)
        sizes = step_bytes(job)
        assert sizes.parameters[0] == 4 * 3 * 32 * 9 * (
            1 + {"adamw": 2, "sgd": int(optimizer.momentum > 0)}[optimizer.name]
        )
        assert sizes.crossing[0] == 4 * 3 * 32 * 32 * job.batch_size
        assert (sizes.gradients[0], sizes.crossing[-1], len(sizes.crossing)) == (0, 0, LAYERS + 1)
    segment = MovingSegment(job_of({0: (FAST, FAST)}, splits=(16, 16)), 0)
    bare = sum(tensor.nbytes for tensor in segment.give(1, 0, LAYERS).tensors.values())
    assert bare == sum(step_bytes(job_of({0: (FAST, FAST)}, optimizer=OptimizerSpec(momentum=0.0))).parameters)


def test_what_cannot_be_cut_in_training_is_not():
    job = make_job("user_models:tied", (0,))
    sizes = step_bytes(job)
    layers = len(sizes.parameters)
    control = Control(layer_s=((0.1,) * layers, (0.001,) * layers), links={0: (FAST,)})
    costs = TrainingControl(control, 1, sizes, "node0").update((0,), 0.0)
    assert [cost < inf for cost in costs] == sizes.cuttable
    assert not all(sizes.cuttable)


def hop(index: int, job: Job):
    role, _ = build(job, index, load_data(job))
    return role


def test_a_hop_adds_its_split_and_tells_of_an_update_on_the_way_back():
    job = job_of({0: (SLOW, FAST)})
    mec, cloud = hop(1, job), hop(2, job)
    (down,) = mec.receive("previous", Proposal(step=0, splits=(3,)), 0.0)
    assert down == Send("next", down.message)
    assert down.message.splits == (3, 6)  # nothing is known yet
    cost, back = cloud.receive("previous", down.message, 0.0)
    assert back.message.splits == (3, 6)
    assert mec.receive("next", cost.message, 0.0) == []
    told, _ = mec.receive("next", back.message, 0.0)
    assert told.message.tensors["cost_s"].shape == (LAYERS + 1,)
    (down,) = mec.receive("previous", Proposal(step=1, splits=(3,)), 0.0)
    assert down.message.splits == (3, 3)  # the cloud is the faster one, and its link too
    mec.receive("previous", SplitChange(assignment=1, splits=(3, 4)), 0.0)
    (down,) = mec.receive("previous", Proposal(step=2, splits=(3,)), 0.0)
    assert down.message.splits == (3, 4)  # until it has heard again


def test_the_rate_that_transfers_show_counts_more_than_what_was_told():
    job = job_of({0: (FAST, FAST), 9: (FAST, FAST)}, policy=Policy(rate_transfers=3))
    control = TrainingControl(job.control, 1, step_bytes(job), "node0")
    before = control.update(job.splits, 0.0)
    for _ in range(3):
        control.observe(125_000.0, 1.0, 0.0)  # 1 Mbit/s
    slow = control.update(job.splits, 0.0)
    told = TrainingControl(job_of({0: (SLOW, FAST)}).control, 1, step_bytes(job), "node0").update(job.splits, 0.0)
    assert slow == told != before
    control.reach(9)
    assert control.update(job.splits, 0.0) == before


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no entry for step 0"):
        job_of({1: (FAST, FAST)})
    with pytest.raises(ValueError, match="every_steps and horizon_steps"):
        job_of({0: (FAST, FAST)}, every_steps=0)
    with pytest.raises(ValueError, match="3 rows of layer_s and 2 links"):
        job_of({0: (FAST,)})
    with pytest.raises(ValueError, match="excludes moves"):
        job_of({0: (FAST, FAST)}, moves={})
    job = job_of({0: (FAST, FAST)})
    with pytest.raises(ModelError, match="layer_s has 15 layers of 16"):
        run_in_process(replace(job, control=replace(job.control, layer_s=((1.0,) * 15,) * 3)))
    with pytest.raises(ProtocolError, match="2 splits were proposed before node 1"):
        hop(1, job).receive("previous", Proposal(step=0, splits=(1, 2)), 0.0)
    with pytest.raises(ProtocolError, match="99 layers were proposed"):
        hop(1, job).receive("previous", Proposal(step=0, splits=(99,)), 0.0)
    ue = hop(0, job)
    assert [type(action) for action in ue.receive("runner", Begin(), 0.0)] == [
        Send,
        Train,
    ]
    with pytest.raises(ModelError, match="must not decrease"):
        ue.receive("next", Proposal(step=0, splits=(6, 3)), 0.0)
    with pytest.raises(ProtocolError, match="1 splits were proposed, 2 are needed"):
        ue.receive("next", Proposal(step=0, splits=(6,)), 0.0)
