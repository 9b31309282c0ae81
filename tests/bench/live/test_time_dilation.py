"""A run k times as slow, told in its own time, is the run itself."""

import msgspec
import pytest
from jobs import small_job

from bench.live.time_dilation import quickened, slowed
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.spec.job import DataSpec, Device, Timing
from nodes.training.in_process import run_in_virtual_time

DEVICES = (Device(timing=Timing(forward_s=0.01, backward_s=0.02)), Device(timing=Timing(forward_s=0.003)))
JOB = small_job(3, data=DataSpec(name="none", train_samples=24, test_samples=40), devices=DEVICES)


@pytest.mark.parametrize("traced", [False, True])
def test_a_dilated_run_is_the_run_itself(traced, tmp_path):
    (tmp_path / "t.csv").write_text("time_s,rate_bps,delay_s\n0,9e6,0.01\n0.05,20e6,0.002\n0.13,4e6,0.03\n")
    profile = LinkProfile(rate_bps=20e6, delay_s=0.004, jitter_s=0.001, loss=0.01)
    link = Duplex(up=profile, down=profile, trace=str(tmp_path / "t.csv") if traced else None, time_scale=2.0)

    def run(k):
        job = slowed(JOB, k)
        return quickened(run_in_virtual_time(job, [device.timing for device in job.devices], [link.dilated(k)]), k)

    one, other = run(1), run(7.5)
    assert other.step_s == pytest.approx(one.step_s, rel=1e-6)
    assert other.latency_s == pytest.approx(one.latency_s, rel=1e-6)
    assert other.epochs[0]["test_s"] == pytest.approx(one.epochs[0]["test_s"])
    assert [node.compute_s for node in other.nodes] == pytest.approx([node.compute_s for node in one.nodes])
    assert other.nodes[0].sent_uplink == one.nodes[0].sent_uplink


def test_an_unlimited_link_stays_one():
    assert Duplex().dilated(10) == Duplex()


def test_nodes_that_were_as_fast_as_the_machine_are_slower_by_the_factor():
    job = slowed(msgspec.structs.replace(JOB, devices=()), 4)
    assert job.devices == (Device(slowdown=4.0),) * 2
    assert slowed(msgspec.structs.replace(JOB, devices=(Device(), Device(slowdown=3.0))), 2).devices == (
        Device(slowdown=2.0),
        Device(slowdown=6.0),
    )
