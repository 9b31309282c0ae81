"""DynSplit between real processes against the same job in this one: equal losses, parameters and bytes."""

import torch
from jobs import small_job
from msgspec.structs import replace

from bench.live.training import run_live
from nodes.model.checkpoint import checkpoint_path
from nodes.spec.job import DataSpec, StageSpec
from nodes.training.in_process import run_in_process
from nodes.wire.byte_counter import Traffic


def payload(sent: dict[str, Traffic]) -> dict[str, int]:
    return {kind: sent[kind].payload_bytes for kind in ("activation", "gradient", "result") if kind in sent}


def test_live_equals_in_process_with_a_stage_at_each_of_two_cuts(tmp_path):
    first, second = (
        {"paths": [6, 2], "target": [0.3], "lossless": "entropy", "share": 0.6, "gradient": "all"},
        {"paths": [0, 8], "target": [0.5], "gradient": "losses"},
    )
    name, data = "nodes.stages.dynsplit.stage:DynSplit", DataSpec(train_samples=64, test_samples=20)
    stages = tuple(StageSpec(name=name, options=options) for options in (first, second))
    job = small_job(4, 8, stages=stages, data=data, epochs=2, batch_size=16, checkpoint=str(tmp_path / "here"))
    here = run_in_process(job)
    job = replace(job, checkpoint=str(tmp_path / "live"))
    live = run_live(job)
    assert live.losses == here.losses
    assert len(live.losses) == 8
    for name in ("link0.path0", "link1.path0", "link0.information"):
        assert [epoch[name] for epoch in live.epochs] == [epoch[name] for epoch in here.epochs]
    for node, other in zip(live.nodes, here.nodes, strict=True):
        assert payload(node.sent_uplink) == payload(other.sent_uplink)
        assert payload(node.sent_downlink) == payload(other.sent_downlink)
    for index in range(3):
        states = [torch.load(tmp_path / where / f"node-{index}-2.pt", weights_only=True) for where in ("here", "live")]
        for name, module in states[0]["modules"].items():
            assert all(torch.equal(tensor, states[1]["modules"][name][key]) for key, tensor in module.items())
    assert checkpoint_path(job, 0, 2).exists()
