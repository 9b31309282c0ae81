"""Layers that change their processes during training: nothing of the training changes."""

from jobs import small_job
from msgspec.structs import replace

from bench.live.training import run_live
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.spec.job import Control, DataSpec, OptimizerSpec
from nodes.spec.policy import LinkSpec, Policy
from nodes.training.in_process import run_in_process

LINK = LinkProfile(rate_bps=200e6, delay_s=0.001)
OPTIMIZER = OptimizerSpec(lr=0.02, momentum=0.9, weight_decay=5e-4)
TWENTY_STEPS = {"data": DataSpec(train_samples=80, test_samples=16), "optimizer": OPTIMIZER, "epochs": 2}


def test_a_live_run_whose_layers_move_equals_one_whose_layers_stay():
    job = small_job(3, 7, moves={2: (6, 6), 9: (0, 12), 13: (2, 4), 15: (16, 16)}, **TWENTY_STEPS)
    live = run_live(job, [Duplex(up=LINK, down=LINK), Duplex()], self_test="skip")
    stays = run_in_process(replace(job, moves=None))
    assert live.losses == stays.losses
    assert [epoch["test_accuracy"] for epoch in live.epochs] == [epoch["test_accuracy"] for epoch in stays.epochs]
    in_process = run_in_process(job)
    for node, other in zip(live.nodes, in_process.nodes, strict=True):
        assert node.sent_uplink.get("parameters") == other.sent_uplink.get("parameters")
        assert node.sent_downlink.get("parameters") == other.sent_downlink.get("parameters")
    assert live.nodes[2].sent_downlink["parameters"].messages
    assert live.nodes[0].sent_uplink["parameters"].messages
    assert [node.layers for node in live.nodes] == [16, 0, 0]


def test_nodes_that_measure_a_slow_link_move_layers_off_it_and_change_nothing_of_the_training():
    """Told of a fast link, they find a slow one: a batch of pictures takes 0.2 s, all layers of the UE 0.08 s."""
    layers = 16
    control = Control(
        layer_s=((0.005,) * layers, (0.005,) * layers, (0.0001,) * layers),
        links={0: (LinkSpec(rate_bps=1e9), LinkSpec(rate_bps=1e9))},
        policy=Policy(rate_transfers=3),
    )
    job = small_job(0, 0, control=control, **TWENTY_STEPS)
    slow = LinkProfile(rate_bps=4e6)
    live = run_live(job, [Duplex(up=slow, down=slow), Duplex()])
    stays = run_in_process(replace(job, control=None))
    assert live.losses == stays.losses
    assert [node.layers for node in run_in_process(job).nodes] == [0, 0, layers]  # there no link is slow
    assert [node.layers for node in live.nodes] == [layers, 0, 0]
    assert live.nodes[0].sent_uplink["split-change"].messages == 1
