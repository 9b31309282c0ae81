"""Virtual time: how long a run takes is what the formulas say, and its bytes are those of the real run."""

import asyncio
import functools
import random

import oracle
import pytest

from netem.link import LinkProfile
from netem.profiles import Duplex, Traces
from nodes.runtime.virtual_time import DeadlockError, run_virtual
from nodes.spec.job import DataSpec, Job, StageSpec, Timing
from nodes.training.in_process import run_in_process, run_in_virtual_time
from nodes.training.segment import Segment

BATCHES = 6
UP, DOWN = LinkProfile(rate_bps=2e6, delay_s=0.03), LinkProfile(rate_bps=8e6, delay_s=0.05)
LINK = Duplex(up=UP, down=DOWN)


def make_job(splits=(3,), **changes) -> Job:
    data = DataSpec(train_samples=24, test_samples=8 * BATCHES)
    return oracle.make_job("user_models:Plain", splits, **{"data": data, "epochs": 0, "steps": None} | changes)


def crossing_s(traffic, profile) -> tuple[float, float]:
    """Seconds that one of the messages of ``traffic`` takes: to be sent, and to travel."""
    wire_bytes = traffic.header_bytes + traffic.payload_bytes
    return 8 * wire_bytes / traffic.messages / profile.rate_bps, profile.delay_s


TIMINGS = [Timing(forward_s=0.010, backward_s=0.015), Timing(forward_s=0.007, backward_s=0.020)]


def test_one_batch_at_a_time_takes_the_sum_of_all():
    outcome = run_in_virtual_time(make_job(window=1), TIMINGS, [LINK])
    down = crossing_s(outcome.nodes[0].sent_uplink["activation"], UP)  # towards the cloud
    back = crossing_s(outcome.nodes[1].sent_downlink["result"], DOWN)
    expected = BATCHES * (0.010 + sum(down) + 0.007 + sum(back))
    assert outcome.epochs[0]["test_s"] == pytest.approx(expected, rel=1e-9)
    assert outcome.epochs[0]["tested_samples"] == 8 * BATCHES
    assert [node.compute_s for node in outcome.nodes] == pytest.approx([0.010 * BATCHES, 0.007 * BATCHES])


@pytest.mark.parametrize("forward_s", [0.002, 0.3], ids=["the link is slowest", "the UE is slowest"])
def test_a_full_window_takes_one_batch_and_the_slowest_stage_for_each_other(forward_s):
    timings = [Timing(forward_s=forward_s), TIMINGS[1]]
    outcome = run_in_virtual_time(make_job(window=BATCHES), timings, [LINK])
    sent_s, travel_s = crossing_s(outcome.nodes[0].sent_uplink["activation"], UP)
    back_s, return_s = crossing_s(outcome.nodes[1].sent_downlink["result"], DOWN)
    stages = [forward_s, sent_s, 0.007, back_s]
    expected = sum(stages) + travel_s + return_s + (BATCHES - 1) * max(stages)
    assert outcome.epochs[0]["test_s"] == pytest.approx(expected, rel=1e-9)


def test_a_training_step_takes_forward_and_backward_on_both_sides():
    job = make_job(epochs=1, data=DataSpec(train_samples=24, test_samples=8))
    outcome = run_in_virtual_time(job, TIMINGS, [LINK])
    there = crossing_s(outcome.nodes[0].sent_uplink["activation"], UP)
    back = crossing_s(outcome.nodes[1].sent_downlink["gradient"], DOWN)
    step_s = 0.010 + sum(there) + 0.007 + 0.020 + sum(back) + 0.015
    assert len(outcome.step_s) == 3
    # Of the activations one was a test's, which names no gradients: a few bytes of its header.
    assert outcome.step_s == pytest.approx([step_s] * 3, rel=1e-3)
    assert outcome.epochs[0]["train_s"] == pytest.approx(sum(outcome.step_s), rel=1e-6)


@pytest.mark.parametrize("stage", ["identity", "float16", "int8", "user_stages:Bottleneck"])
@pytest.mark.parametrize("splits", [(3,), (0, 3, 3, 5)], ids=str)
def test_bytes_are_those_of_the_run_with_data(stage, splits):
    job = make_job(splits, epochs=1, microbatches=2, stages=(StageSpec(name=stage),) * len(splits))
    if splits[0] == 0 and ":" in stage:
        job = make_job((3, 3, 5, 5), epochs=1, microbatches=2, stages=job.stages)
    links = len(job.splits)
    real = run_in_process(job)
    virtual = run_in_virtual_time(job, [Timing()] * (links + 1), [LINK] * links)
    for one, other in zip(real.nodes, virtual.nodes, strict=True):
        assert one.sent_uplink == other.sent_uplink
        assert one.sent_downlink == other.sent_downlink
        assert (one.name, one.layers, one.steps) == (other.name, other.layers, other.steps)
    assert virtual.losses == [0.0] * 3


def test_a_seed_repeats_a_run_over_links_that_vary():
    rough = LinkProfile(rate_bps=5e6, delay_s=0.02, jitter_s=0.01, loss=0.05)
    links = [Duplex(up=rough, down=rough)] * 2
    job, other = (make_job((3, 5), epochs=1, seed=seed) for seed in (3, 4))
    one, two, three = (run_in_virtual_time(j, [Timing(forward_s=0.01)] * 3, links) for j in (job, job, other))
    assert one == two
    assert one.step_s != three.step_s


def test_latencies_are_what_a_batch_takes_and_its_wait():
    outcome = run_in_virtual_time(make_job(window=1), TIMINGS, [LINK])
    assert sum(outcome.latency_s) == pytest.approx(outcome.epochs[0]["test_s"], rel=1e-6)
    assert outcome.latency_s == pytest.approx([outcome.epochs[0]["test_s"] / BATCHES] * BATCHES, rel=1e-6)
    full = run_in_virtual_time(make_job(window=BATCHES), TIMINGS, [LINK])
    assert max(full.latency_s) == pytest.approx(full.epochs[0]["test_s"], rel=1e-6)  # all began at once


def test_half_duplex_links_carry_one_direction_at_a_time():
    profile = LinkProfile(rate_bps=2e6)
    both, one = (
        run_in_virtual_time(make_job(window=2), [Timing()] * 2, [Duplex(up=profile, down=profile, half_duplex=half)])
        for half in (False, True)
    )
    sent_s, _ = crossing_s(one.nodes[0].sent_uplink["activation"], profile)
    back_s, _ = crossing_s(one.nodes[1].sent_downlink["result"], profile)
    # Full duplex: activations back to back, then the last result. Half duplex: all one after the other, as the next
    # activation always waits for a result.
    assert both.epochs[0]["test_s"] == pytest.approx(BATCHES * sent_s + back_s, rel=1e-9)
    assert one.epochs[0]["test_s"] == pytest.approx(BATCHES * (sent_s + back_s), rel=1e-9)


def trace(folder, seed=5, seconds=20.0):
    """A CSV trace whose rate changes every 10 ms."""
    rng, path = random.Random(seed), folder / f"{seed}.csv"
    rows = [f"{number / 100},{rng.uniform(1e6, 40e6)}" for number in range(int(seconds * 100))]
    path.write_text("\n".join(["time_s,rate_bps", *rows]))
    return path


def test_a_link_that_follows_a_trace_sends_what_the_rates_add_up_to(tmp_path):
    path = trace(tmp_path)
    rates = [float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]]
    link = Duplex(trace=Traces(up=str(path), down=str(path)), up=LinkProfile(delay_s=0.03))
    outcome = run_in_virtual_time(make_job(window=1), [Timing(forward_s=0.005), Timing()], [link])

    def sent(at, size):
        """Bit by bit, or nearly: in steps of 10 us."""
        left, step = 8.0 * size, round(at * 1e5)
        while left > 0:
            left -= rates[step // 1000] * 1e-5
            step += 1
        return step * 1e-5

    now = 0.0
    for _ in range(BATCHES):
        for traffic, delay_s, compute_s in (
            (outcome.nodes[0].sent_uplink["activation"], 0.03, 0.005),
            (outcome.nodes[1].sent_downlink["result"], 0.0, 0.0),
        ):
            wire_bytes = (traffic.header_bytes + traffic.payload_bytes) / traffic.messages
            now = sent(now + compute_s, wire_bytes) + delay_s
    assert outcome.epochs[0]["test_s"] == pytest.approx(now, abs=2 * BATCHES * 2e-5)


def test_many_tasks_over_five_hops_repeat_to_the_bit_and_are_those_of_the_segments_themselves(tmp_path, monkeypatch):
    name = str(trace(tmp_path))
    job = make_job((0, 2, 3, 3, 5), batch_size=1, data=DataSpec(name="none", test_samples=150), window=3, seed=7)
    rough = LinkProfile(delay_s=0.002, jitter_s=0.001, loss=0.01)
    links = [Duplex(trace=name, up=rough, down=rough)] * 5
    one, two = (run_in_virtual_time(job, [Timing(forward_s=0.004)] * 6, links) for _ in range(2))
    assert one == two
    assert len(one.latency_s) == 150
    assert len(set(one.latency_s)) > 100

    monkeypatch.setattr("nodes.training.build.ShapeSegment", functools.partial(Segment, meta=True))
    assert run_in_virtual_time(job, [Timing(forward_s=0.004)] * 6, links) == one


def test_it_is_an_error_if_nothing_would_ever_happen():
    with pytest.raises(DeadlockError):
        run_virtual(asyncio.Event().wait())


def test_the_clock_stands_still_while_code_runs_and_jumps_over_sleep():
    async def main():
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        for _ in range(3):
            await asyncio.sleep(0)
            times.append(loop.time())
        await asyncio.sleep(86_400 * 365)
        return [*times, loop.time()]

    assert run_virtual(main()) == [0.0, 0.0, 0.0, 0.0, 86_400 * 365]


def test_timers_fire_in_order_and_at_their_time():
    async def main():
        loop, fired = asyncio.get_running_loop(), []
        for at in (3.5, 0.25, 2.0, 1e-6):
            loop.call_at(at, lambda at=at: fired.append((at, loop.time())))
        await asyncio.sleep(4)
        return fired

    assert run_virtual(main()) == [(at, at) for at in (1e-6, 0.25, 2.0, 3.5)]


def test_a_failure_in_one_node_ends_the_run_with_it():
    job = make_job(stages=(StageSpec(name="user_stages:Failing"),))
    with pytest.raises(ZeroDivisionError):
        run_in_virtual_time(job, [Timing()] * 2, [LINK])
    with pytest.raises(ZeroDivisionError):
        run_in_process(job)


def test_as_many_timings_and_links_as_the_chain_has():
    with pytest.raises(ValueError, match="zip"):
        run_in_virtual_time(make_job(), TIMINGS[:1], [LINK])
    with pytest.raises(ValueError, match="zip"):
        run_in_virtual_time(make_job(), TIMINGS, [LINK, LINK])
