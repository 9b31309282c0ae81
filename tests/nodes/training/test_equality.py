"""The proof: a split run has the losses and the parameters of the unsplit one, bit for bit.

The oracle is a plain torch loop on an untouched network; only its batches, its initialisation and the seeds
of its dropout come from the code under test.
"""

import pytest
import torch
from oracle import assert_equals_unsplit, make_job

from nodes.errors import DataError
from nodes.model.factory import outline
from nodes.model.layer_range import layer_range
from nodes.spec.job import DataSpec, Job, OptimizerSpec
from nodes.training.in_process import run_in_process

RESNET, VGG, PLAIN = "resnet18", "user_models:narrow_vgg11_bn", "user_models:Plain"
UNDROPPED, VIEWED = "user_models:Undropped", "user_models:Viewed"


def assert_equals_whole(job: Job, folder) -> None:
    outcome = assert_equals_unsplit(job, folder)
    assert len(outcome.losses) == 20
    layers = len(outline(job.model, 10, job.input_shape))
    assert [node.layers for node in outcome.nodes] == [
        held.stop - held.start for held in (layer_range(job.splits, p, layers) for p in range(len(job.nodes)))
    ]


@pytest.mark.parametrize("splits", [(20,), (9, 40), (3, 14, 31, 60)], ids=["2 parts", "3 parts", "5 parts"])
def test_resnet18_in_parts_equals_the_whole(splits, tmp_path):
    assert_equals_whole(make_job(RESNET, splits), tmp_path)


@pytest.mark.parametrize("splits", [(25,), (8, 30), (4, 11, 22, 33)], ids=["2 parts", "3 parts", "5 parts"])
def test_vgg11_with_dropout_in_parts_equals_the_whole(splits, tmp_path):
    assert_equals_whole(make_job(VGG, splits), tmp_path)


@pytest.mark.parametrize(
    "splits",
    [(), (0,), (7,), (0, 3), (3, 3), (3, 7), (0, 0, 2, 2, 5, 7, 7), (0, 7, 7), (7, 7)],
    ids=str,
)
def test_nodes_without_layers_may_stand_anywhere(splits, tmp_path):
    assert len(outline(PLAIN, 10, (3, 32, 32))) == 7
    assert_equals_whole(make_job(PLAIN, splits), tmp_path)


def test_a_cut_inside_a_residual_block_equals_the_whole(tmp_path):
    layers = outline(RESNET, 10, (3, 32, 32))
    inside = layers.names.index("layer1.0.conv2")
    assert len(layers.boundary(inside)) == 2
    assert_equals_whole(make_job(RESNET, (inside, inside + 1)), tmp_path)


@pytest.mark.parametrize("splits", [(17,), (8, 17)], ids=str)
def test_a_tensor_and_views_of_it_that_are_read_on_both_sides_of_a_cut_equal_the_whole(splits, tmp_path):
    assert outline(VIEWED, 10, (3, 32, 32)).boundary(17) == ("tanh", "flatten", "getitem", "add_3")
    assert_equals_whole(make_job(VIEWED, splits), tmp_path)


def test_a_view_costs_no_bytes_but_those_of_its_gradient():
    outcome = run_in_process(make_job(VIEWED, (17,), epochs=1, data=DataSpec(train_samples=80, test_samples=8)))
    map_bytes = 8 * 4 * 8 * 8 * 4  # eight samples of four maps
    up, down = outcome.nodes[0].sent_uplink["activation"], outcome.nodes[1].sent_downlink["gradient"]
    assert up.payload_bytes == 11 * 2 * map_bytes + 10 * 8 * 8  # tanh and add_3, of one test batch too, and labels
    assert down.payload_bytes == 10 * (3 * map_bytes + 8 * 4 * 6 * 4 * 4)  # these, flatten and getitem


@pytest.mark.parametrize("splits", [(), (2, 4)], ids=str)
def test_microbatches_equal_the_same_accumulation_unsplit(splits, tmp_path):
    assert_equals_whole(make_job(PLAIN, splits, microbatches=2), tmp_path)


def test_microbatches_change_what_a_step_costs_but_hardly_what_it_learns(tmp_path):
    whole, halved = (run_in_process(make_job(UNDROPPED, (3,), microbatches=m)) for m in (1, 4))
    assert whole.losses == pytest.approx(halved.losses, rel=1e-4)
    assert sum(t.messages for t in halved.nodes[0].sent_uplink.values()) > 3 * 20


def test_another_optimizer_equals_the_whole(tmp_path):
    adam = OptimizerSpec(name="adam", lr=0.003, weight_decay=0.01)
    assert_equals_whole(make_job(PLAIN, (3,), optimizer=adam), tmp_path)


def test_a_cosine_schedule_equals_the_whole(tmp_path):
    cosine = OptimizerSpec(lr=0.05, schedule="cosine")
    assert_equals_whole(make_job(PLAIN, (3,), optimizer=cosine, epochs=4, steps=5), tmp_path)


def test_fewer_pictures_than_a_batch_are_an_error_not_a_run_without_training():
    with pytest.raises(DataError, match="88 training pictures do not fill a batch of 128"):
        run_in_process(make_job(PLAIN, (3,), batch_size=128))


def test_another_seed_is_another_run():
    one, other = (run_in_process(make_job(PLAIN, (3,), seed=seed)).losses for seed in (1, 2))
    assert one != other


def test_a_run_gives_its_thread_count_back():
    before = torch.get_num_threads()
    run_in_process(make_job(PLAIN, (3,), epochs=0, threads=before + 1))
    assert torch.get_num_threads() == before
