"""Deprune between real processes against the same job in this one: one source and many; a family that is served."""

import pytest
from jobs import small_job
from msgspec.structs import replace

from bench.live.training import run_live
from nodes.spec.job import DataSpec, Device, StageSpec
from nodes.training.in_process import run_in_process
from nodes.wire.byte_counter import Traffic

STAGE = StageSpec(name="nodes.stages.deprune.stage:Pruned", options={"phases": [[1, 1 / 8], [1, 1.0]]})
JOB = small_job(4, stages=(STAGE,), data=DataSpec(train_samples=96, test_samples=24), epochs=2, batch_size=16)


def frames(sent: dict[str, Traffic]) -> dict[str, int]:
    return {kind: sent[kind].payload_bytes for kind in ("activation", "gradient") if kind in sent}


@pytest.mark.parametrize(
    "job",
    [replace(JOB, sources=3), replace(JOB, devices=(Device(slowdown=2.5), Device())), replace(JOB, sources=2, steps=1)],
    ids=["three sources", "a slower source", "one step each"],
)
def test_live_equals_in_process(job):
    here, live = run_in_process(job), run_live(job)
    assert live.losses == here.losses
    assert len(live.losses) == job.sources * 2 * (job.steps or 96 // job.sources // 16)
    assert [node.name for node in live.nodes] == [node.name for node in here.nodes]
    for node, other in zip(live.nodes, here.nodes, strict=True):
        assert frames(node.sent_uplink) == frames(other.sent_uplink)
        assert frames(node.sent_downlink) == frames(other.sent_downlink)
        assert node.resident_bytes > 10 << 20
        assert all(link.written_bytes == link.acked_bytes for link in node.connections)
    assert len({node.pid for node in live.nodes}) == job.sources + 1
    told = [(epoch.get("source"), epoch["epoch"], epoch["train_up_bytes"]) for epoch in live.epochs]
    assert told == [(epoch.get("source"), epoch["epoch"], epoch["train_up_bytes"]) for epoch in here.epochs]


def test_a_manager_switches_the_members_of_a_live_family():
    options = {"phases": [[1, 1.0], [1, 1 / 8]], "reset": True}
    job = replace(JOB, stages=(StageSpec(name="nodes.stages.deprune.stage:Pruned", options=options),), members=(1, 2))
    orders = [2, 1, 2]

    def manage(told: dict[str, float]) -> int | None:
        return orders[int(told["epoch"]) - 2] if told["epoch"] < 5 else None

    here, live = run_in_process(job, manage=manage), run_live(job, manage=manage)
    assert [epoch["test_accuracy"] for epoch in live.epochs] == [epoch["test_accuracy"] for epoch in here.epochs]
    first, last = (epoch["test_accuracy"] for epoch in live.epochs[:2])
    assert [epoch["test_accuracy"] for epoch in live.epochs[2:]] == [last, first, last]
    sent = [epoch["sent_bytes"] for epoch in live.epochs[2:]]
    assert sent[0] == sent[2] < sent[1] / 6
