"""Machines and links that several owners share, against hand-counted queues and the closed form of one server."""

import asyncio
import random
from itertools import accumulate
from statistics import fmean

import pytest

from netem.link import Link, LinkProfile
from nodes.runtime.actions import Compute
from nodes.runtime.sharing import SharedLink, SharedMachine, WorkQueue
from nodes.runtime.virtual_time import run_virtual


class Job(Compute):
    def run(self, worker: object) -> None:
        return None


def test_a_queue_tells_each_owner_what_is_left_of_the_others() -> None:
    """A comes at 0 for 4 s, B at 1 for 2 s, A at 2 for 3 s: done at 4, 6 and 9."""
    queue = WorkQueue()
    for now, owner, seconds, end in ((0.0, "a", 4.0, 4.0), (1.0, "b", 2.0, 6.0), (2.0, "a", 3.0, 9.0)):
        assert queue.free_at(now) + seconds == end
        queue.add(now, end, seconds, owner)
    assert [queue.backlog_s(2.0, owner) for owner in "abc"] == [2.0, 2.0 + 3.0, 7.0]
    assert [queue.backlog_s(5.0, owner) for owner in "abc"] == [1.0, 3.0, 4.0]
    assert [queue.backlog_s(9.0, owner) for owner in "abc"] == [0.0, 0.0, 0.0]
    assert queue.free_at(11.0) == 11.0


def test_calls_of_several_nodes_are_served_in_the_order_in_which_they_come() -> None:
    ended = []

    async def at(when: float, owner: str, seconds: float) -> None:
        await asyncio.sleep(when)
        await machine.executor(lambda call, reply, cpu_s: seconds, owner)(Job(), lambda: None)
        ended.append((owner, asyncio.get_running_loop().time()))

    async def run() -> None:
        await asyncio.gather(at(2.0, "b", 1.0), at(0.0, "a", 3.0), at(2.5, "a", 1.0), at(9.0, "b", 1.0))

    machine = SharedMachine()
    run_virtual(run())
    assert ended == [("a", 3.0), ("b", 4.0), ("a", 5.0), ("b", 10.0)]


def lindley_waits_s(gaps_s: list[float], service_s: float) -> list[float]:
    """Each wait by Lindley's recursion: max(0, the wait before + the service - the time between both arrivals)."""
    return list(accumulate(gaps_s[1:], lambda wait_s, gap_s: max(0.0, wait_s + service_s - gap_s), initial=0.0))


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_the_mean_wait_of_poisson_calls_is_that_of_an_m_d_1_queue(load: float) -> None:
    """Pollaczek and Khinchine: arrivals at load / s, services of s seconds, a mean wait of load s / (2 (1 - load)).

    The machine follows Lindley's recursion call by call; of that many more are averaged.
    """
    rng, service_s = random.Random(5), 2.0
    gaps_s = [rng.expovariate(load / service_s) for _ in range(400_000)]
    calls = 1500
    waits_s, told_s = [0.0] * calls, [0.0] * calls
    machine = SharedMachine()

    async def call(owner: int) -> None:
        began = asyncio.get_running_loop().time()
        told_s[owner] = machine.queue.backlog_s(began, owner)
        await machine.executor(lambda call, reply, cpu_s: service_s, owner)(Job(), lambda: None)
        waits_s[owner] = asyncio.get_running_loop().time() - began - service_s

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for owner, gap_s in enumerate(gaps_s[:calls]):
                await asyncio.sleep(gap_s)
                group.create_task(call(owner))

    run_virtual(run())
    expected_s = lindley_waits_s(gaps_s, service_s)
    assert waits_s == pytest.approx(expected_s[:calls], abs=1e-6)
    assert told_s == pytest.approx(expected_s[:calls], abs=1e-6)
    assert fmean(expected_s) == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.02)


def test_a_shared_link_carries_one_frame_after_the_other_and_counts_whose_they_are() -> None:
    """1,000 bytes take 1 s at 8 kbit/s, and 0.5 s of delay, which occupies nothing."""
    link, queue = Link(LinkProfile(rate_bps=8e3, delay_s=0.5), random.Random(0)), WorkQueue()
    one, other = (SharedLink(link, queue, owner) for owner in ("one", "other"))
    assert one.send(0.0, 1000) == 1.5
    assert other.send(0.25, 2000) == 3.5
    assert (queue.backlog_s(0.25, "one"), queue.backlog_s(0.25, "other")) == (2.0, 0.75)
    assert one.send(5.0, 1000) == 6.5
    assert queue.backlog_s(5.0, "other") == 1.0
