"""Layers that change their nodes during training: the run equals one that was never split, bit for bit."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from oracle import assert_equals_unsplit, make_job, unsplit

from nodes.errors import ModelError, ProtocolError
from nodes.model.factory import outline
from nodes.model.layer_range import layer_range
from nodes.runtime.actions import Finish, Send
from nodes.spec.job import OptimizerSpec, StageSpec
from nodes.training.in_process import run_in_process, run_in_virtual_time
from nodes.training.migration.roles import LayerMove, RelayMigration, UeMigration, shares, travelling
from nodes.training.migration.segment import Give, MovingSegment, Settle, Settled, stages
from nodes.training.relay import Relay
from nodes.training.segment import Forward
from nodes.training.source import Train, TrainingSchedule
from nodes.training.ue import Ue
from nodes.wire.messages import Activation, Begin, Gradient, Parameters, Shutdown, SplitChange, SplitRequest

CNN, PLAIN = "nodes.zoo.small_cnn:small_cnn", "user_models:Plain"


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerSpec(lr=0.02, momentum=0.9, weight_decay=5e-4, schedule="cosine"),
        OptimizerSpec(lr=0.02, momentum=0.0, weight_decay=0.0),
        OptimizerSpec(name="adam", lr=0.002, weight_decay=1e-4, schedule="cosine"),
    ],
    ids=lambda spec: f"{spec.name} {spec.schedule} {spec.momentum}",
)
@pytest.mark.parametrize("microbatches", [1, 2])
def test_layers_that_move_up_and_down_change_nothing(optimizer, microbatches, tmp_path):
    moves = {0: (1, 3), 3: (6, 9), 4: (2, 4), 9: (0, 12), 12: (12, 12), 15: (2, 2), 17: (0, 0)}
    job = make_job(CNN, (3, 6), moves=moves, optimizer=optimizer, microbatches=microbatches)
    outcome = assert_equals_unsplit(job, tmp_path)
    layers = len(outline(CNN, 10, (3, 32, 32)))
    assert [node.layers for node in outcome.nodes] == [0, 0, layers]


def test_a_resnet_moves_over_five_nodes_some_of_them_empty(tmp_path):
    moves = {2: (10, 10, 40, 60), 3: (0, 30, 30, 69), 5: (30, 31, 32, 33)}
    job = make_job("resnet18", (5, 20, 40, 50), moves=moves, steps=7, epochs=1)
    assert_equals_unsplit(job, tmp_path)


@pytest.mark.parametrize("where", [(0,), (3,), (7,)])
def test_a_ue_that_gives_all_away_and_takes_it_back(where, tmp_path):
    job = make_job(PLAIN, (7,), moves={1: where, 4: (2,), 6: (7,), 9: (0,)}, epochs=1)
    assert_equals_unsplit(job, tmp_path)


def test_layers_cross_every_link_between_their_holders_once_with_all_their_state():
    job = make_job(CNN, (3, 3, 3), moves={1: (0, 3, 3), 2: (0, 0, 0)}, epochs=1, steps=3)
    outcome = run_in_process(job)
    names = outline(CNN, 10, (3, 32, 32)).names[:3]
    assert names[:2] == ["0", "1"]  # a convolution, 3 to 32 channels, and batch norm; ReLU has no state
    weights = 3 * 32 * 9 + 2 * 32  # of the convolution and the norm's scale and shift
    batch_norm_bytes = 2 * 4 * 32 + 8  # its statistics, and how many batches they are of
    moved_bytes = 2 * 4 * weights + batch_norm_bytes  # each weight has a momentum
    for node, (messages, links) in zip(outcome.nodes, [(1, 1), (1, 1), (1, 1)], strict=False):
        traffic = node.sent_uplink["parameters"]
        assert (traffic.messages, traffic.payload_bytes) == (messages, links * moved_bytes)
    assert "parameters" not in outcome.nodes[3].sent_downlink


def test_moves_that_change_nothing_move_nothing():
    outcome = run_in_process(make_job(PLAIN, (3,), moves={2: (3,)}, epochs=1))
    assert "parameters" not in outcome.nodes[0].sent_uplink
    assert "split-change" not in outcome.nodes[0].sent_uplink


BOTTLENECK = StageSpec(name="user_stages:Bottleneck")


def test_a_stage_stays_where_its_cut_stays_and_begins_anew_where_it_moves():
    stays = make_job(CNN, (4, 8), stages=(StageSpec(), BOTTLENECK), epochs=1)
    moves = replace(stays, moves={3: (2, 8)})  # the first link's cut
    assert run_in_process(stays).losses == run_in_process(moves).losses
    back = replace(stays, moves={3: (4, 10), 4: (4, 8)})  # the second link's cut, there and back
    assert run_in_process(stays).losses[:3] == run_in_process(back).losses[:3]
    assert run_in_process(stays).losses[5:] != run_in_process(back).losses[5:]
    assert run_in_process(back).losses == run_in_process(back).losses


def test_a_stage_is_one_link_one_boundary_and_two_nodes():
    assert stages((3, 6), 9) == {(0, 3, 0, 1), (1, 6, 1, 2)}
    assert stages((3, 3), 9) == {(1, 3, 0, 2)}
    assert stages((9, 9), 9) == set()
    assert stages((0, 3), 9) == {(0, 0, 0, 1), (1, 3, 1, 2)}


def test_what_cannot_be_cut_where_a_move_leads_is_told_at_once():
    with pytest.raises(ModelError, match="share trained parameters"):
        MovingSegment(make_job("user_models:tied", (0,), moves={5: (2,)}), 1)


def test_such_a_job_is_not_resumed_nor_run_without_data(tmp_path):
    job = make_job(PLAIN, (3,), moves={}, epochs=1, steps=2, checkpoint=str(tmp_path))
    run_in_process(job)
    with pytest.raises(ModelError, match="cannot be resumed"):
        run_in_process(job)
    with pytest.raises(ValueError, match="run with data"):
        run_in_virtual_time(job, [], [])
    with pytest.raises(ValueError, match="3 nodes need 2 splits"):
        make_job(PLAIN, (3, 4), moves={1: (2,)})


@st.composite
def assignments(draw):
    nodes, layers = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    split = st.lists(st.integers(0, layers), min_size=nodes - 1, max_size=nodes - 1).map(lambda s: tuple(sorted(s)))
    return layers, draw(split), draw(split)


def holder(held: list[tuple[int, int]], layer: int) -> int:
    (found,) = (p for p, (start, stop) in enumerate(held) if start <= layer < stop)
    return found


@given(assignments())
def test_each_layer_is_given_once_by_who_has_it_to_who_is_to_hold_it(case):
    layers, before, after = case
    old, new = shares(before, layers), shares(after, layers)
    given, taken = [], []
    for index in range(len(old)):
        move = LayerMove(index, layers, before, SplitChange(assignment=1, splits=after))
        given += move.gives
        taken += travelling(new, old, index)
        for start, stop in move.gives:
            assert old[index][0] <= start < stop <= old[index][1]
    assert sorted(given) == sorted(taken)
    moved = [layer for start, stop in given for layer in range(start, stop)]
    assert sorted(moved) == [layer for layer in range(layers) if holder(old, layer) != holder(new, layer)]


def layers_of(start: int, stop: int, number: int = 1) -> Parameters:
    return Parameters(assignment=number, start=start, stop=stop, tensors={})


def hop(index=1, splits=(3, 6), layers=9) -> Relay:
    held, end = layer_range(splits, index, layers), index == len(splits)
    return Relay(held, end, RelayMigration(held, end, splits, layers))


def task() -> Activation:
    return Activation(assignment=1, step=0, train=True, tensors={})


def test_a_hop_gives_first_then_waits_and_holds_tasks_back():
    mec, assign = hop(), SplitChange(assignment=1, splits=(2, 4))
    assert mec.receive("previous", assign, 0.0) == [Send("next", assign), Give(1, 4, 6)]
    assert mec.computed(gone := layers_of(4, 6), 0.0) == [Send("next", gone)]
    assert mec.receive("previous", held := task(), 0.0) == []
    (settle,) = mec.receive("previous", came := layers_of(2, 3), 0.0)
    assert settle == Settle(assign, (came,))
    assert mec.computed(Settled(), 0.0) == [Forward(held)]


def test_a_hop_gives_upwards_and_passes_on_what_is_not_for_it():
    mec, assign = hop(), SplitChange(assignment=1, splits=(9, 9))
    down, give, settle = mec.receive("previous", assign, 0.0)
    assert (down, give) == (Send("next", assign), Give(1, 3, 6))
    assert settle == Settle(assign, ())
    assert mec.computed(gone := layers_of(3, 6), 0.0) == [Send("previous", gone)]
    assert mec.receive("next", passing := layers_of(6, 9), 0.0) == [Send("previous", passing)]
    mec.computed(Settled(), 0.0)
    assert mec.receive("next", late := layers_of(7, 8), 0.0) == [Send("previous", late)]
    assert mec.receive("previous", relayed := task(), 0.0) == [Send("next", relayed)]


def test_layers_and_assignments_that_do_not_fit_are_refused():
    with pytest.raises(ProtocolError, match="assignment 2 came, 1 may be next"):
        hop().receive("previous", SplitChange(assignment=2, splits=(2, 4)), 0.0)
    with pytest.raises(ProtocolError, match="layers 1 to 2 came from previous, for no node beyond"):
        hop().receive("previous", layers_of(1, 2), 0.0)
    mec = hop()
    mec.receive("previous", SplitChange(assignment=1, splits=(2, 4)), 0.0)
    with pytest.raises(ProtocolError, match="layers of assignment 7 came in 1"):
        mec.receive("previous", layers_of(2, 3, 7), 0.0)
    with pytest.raises(ProtocolError, match="may be next"):
        mec.receive("previous", SplitChange(assignment=2, splits=(2, 4)), 0.0)
    cloud = hop(2)
    cloud.receive("previous", SplitChange(assignment=1, splits=(3, 5)), 0.0)
    with pytest.raises(ProtocolError, match="for no node beyond"):
        cloud.receive("previous", layers_of(4, 5), 0.0)
    with pytest.raises(ModelError, match="must not decrease"):
        hop().receive("previous", SplitChange(assignment=1, splits=(5, 4)), 0.0)


def ue(moves, steps=3) -> Ue:
    course = TrainingSchedule(train_steps=steps, test_batches=0, epochs=2, microbatches=1, window=1)
    return Ue(course, False, UeMigration((3,), 9, moves))


def gradient(step=0) -> Gradient:
    return Gradient(assignment=0, step=step, tensors={})


def test_the_ue_moves_before_a_step_and_starts_it_when_it_has_its_layers():
    source = ue({1: (5,), 4: (3,)})
    assert source.receive("runner", Begin(), 0.0) == [Train(0, 0, 0, None)]
    down, *rest = source.computed(gradient(), 1.0)
    assign = down.message
    assert (down.to, assign.splits, assign.assignment, assign.epoch) == ("next", (5,), 1, 0)
    assert rest == []
    (settle,) = source.receive("next", came := layers_of(3, 5), 2.0)
    assert settle == Settle(assign, (came,))
    assert source.computed(Settled(), 3.0) == [Train(0, 1, 0, None)]
    source.computed(gradient(1), 4.0)
    _, train = source.computed(gradient(2), 5.0)
    assert train == Train(1, 0, 0, None)
    down, give, settle = source.computed(gradient(3), 6.0)
    assert (down.message.splits, down.message.assignment, down.message.epoch) == ((3,), 2, 1)
    assert give == Give(2, 3, 5)
    assert source.computed(gone := layers_of(3, 5, 2), 7.0) == [Send("next", gone)]
    assert source.computed(Settled(), 7.0) == [Train(1, 1, 0, None)]
    source.computed(gradient(4), 8.0)
    _, shutdown, finish = source.computed(gradient(5), 9.0)
    assert isinstance(shutdown.message, Shutdown)
    assert finish == Finish()


def test_the_runner_may_say_at_any_time_where_layers_go_before_the_next_step():
    source = ue({})
    source.receive("runner", Begin(), 0.0)
    assert source.receive("runner", SplitRequest(splits=(1,)), 0.5) == []
    down, give, settle = source.computed(gradient(), 1.0)
    assert down.message.splits == (1,)
    assert give == Give(1, 1, 3)
    assert isinstance(settle, Settle)
    with pytest.raises(ModelError, match="exceed the model's 9 layers"):
        source.receive("runner", SplitRequest(splits=(10,)), 2.0)
    with pytest.raises(ProtocolError, match="came to the UE for nothing"):
        source.receive("next", layers_of(0, 1), 2.0)


def segment(splits: tuple[int, ...], index: int) -> MovingSegment:
    return MovingSegment(make_job(CNN, splits, moves={}), index)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.pop("0.weight"), "0.weight: got nothing"),
        (lambda tensors: tensors.update({"0.weight": torch.zeros(1)}), "0.weight: got torch.float32 \\[1\\]"),
        (lambda tensors: tensors.update({"0.weight": torch.zeros(32, 3, 3, 3).half()}), "got torch.float16"),
        (lambda tensors: tensors.update({"other": torch.zeros(1)}), "unexpected tensors \\['other'\\]"),
        (lambda tensors: tensors.update({"optimizer.exec.0.weight": torch.zeros(1)}), "unexpected tensors"),
        (lambda tensors: tensors.update({"optimizer.step.0.weight": torch.zeros(2)}), "step of 0.weight: got"),
        (lambda tensors: tensors.update({"optimizer.exp_avg.1.weight": torch.zeros(2)}), "exp_avg of 1.weight: got"),
    ],
)
def test_state_that_is_not_that_of_the_layers_is_refused(change, match):
    message = segment((3,), 0).give(1, 0, 3)
    change(message.tensors)
    with pytest.raises(ProtocolError, match=match):
        segment((0,), 1).settle(SplitChange(assignment=1, splits=(3,)), (message,))
    taker = segment((0,), 0)
    with pytest.raises(ProtocolError, match=match):
        taker.settle(SplitChange(assignment=1, splits=(3,)), (message,))


def test_a_task_of_another_assignment_is_refused():
    node = segment((3,), 1)
    with pytest.raises(ProtocolError, match="a task of assignment 4 came in 0"):
        node.forward(Activation(assignment=4, step=0, train=False, tensors={}))


def test_every_pair_of_assignments_of_three_nodes_is_reached_bit_equal():
    splits = list(itertools.combinations_with_replacement((0, 2, 5, 7), 2))
    order = [one for pair in itertools.pairwise(splits) for one in pair][:20]
    job = make_job(PLAIN, splits[0], moves=dict(enumerate(order)))
    assert run_in_process(job).losses == unsplit(job)[0]
