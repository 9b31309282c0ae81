"""Queueing, arrival and back pressure of a link queue; times are arguments, no event loop runs."""

import random

import pytest

from netem.link import SEGMENT_BYTES, LinkProfile
from netem.link_queue import BUFFER_BYTES, CHUNK_BYTES, QUEUE_BYTES, LinkQueue

MBIT = 1e6


def queue(**profile: float | None) -> LinkQueue:
    return LinkQueue(LinkProfile(**profile), random.Random(0))  # type: ignore[arg-type]


def put(queue: LinkQueue, now: float, n_bytes: int, count: int = 1) -> None:
    for _ in range(count):
        queue.put(now, bytes(n_bytes), None)


def run(queue: LinkQueue, until: float = float("inf")) -> list[tuple[float, bytes | None]]:
    """All arrivals by ``until`` with their times, calling ``pop_arrived`` whenever ``wake_at`` says."""
    arrived = []
    while (now := queue.wake_at) is not None and now <= until:
        arrived += [(now, chunk.data) for chunk in queue.pop_arrived(now)]
    return arrived


def test_chunks_arrive_in_order_at_the_times_of_the_link():
    one = queue(rate_bps=8 * MBIT, delay_s=0.1)
    for data in (b"a" * 1000, b"b" * 2000, b""):
        one.put(1.0, data, None)
    assert one.wake_at == 1.0
    times, data = zip(*run(one), strict=True)
    assert data == (b"a" * 1000, b"b" * 2000, b"")
    assert times == pytest.approx((1.101, 1.103, 1.103))
    assert one.wake_at is None


def test_late_calls_add_no_error_to_the_rate():
    one = queue(rate_bps=8 * MBIT)
    put(one, 0.0, 1000, count=100)
    assert sum(len(one.pop_arrived(at)) for at in (0.0, 0.0371, 0.0999)) == 99  # at 0.1 s the hundredth
    assert len(one.pop_arrived(0.1001)) == 1


def test_a_change_applies_to_all_queued_chunks_and_a_schedule_to_the_bit():
    one = queue(rate_bps=8 * MBIT)
    put(one, 0.0, 1000, count=10)
    first = run(one, until=0.0045)
    one.change(0.0045, LinkProfile(rate_bps=0.8 * MBIT))
    times = [at for at, _ in first + run(one)]
    assert times == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.005, 0.015, 0.025, 0.035, 0.045, 0.055])
    one = queue()
    one.play(iter([(2.0, LinkProfile(rate_bps=8 * MBIT)), (2.0045, LinkProfile(rate_bps=0.8 * MBIT))]))
    put(one, 2.0, 1000, count=5)
    # Half of the fifth chunk is sent at the first rate, half at the second.
    assert [at for at, _ in run(one)] == pytest.approx([2.001, 2.002, 2.003, 2.004, 2.0095])


def test_reading_pauses_on_queued_bytes_not_on_bytes_in_flight_and_resumes_at_half_the_limit():
    one = queue(rate_bps=MBIT, delay_s=10.0)
    put(one, 0.0, QUEUE_BYTES)
    one.pop_arrived(0.0)
    assert not one.full  # the first chunk is being transmitted, the queue is empty
    put(one, 0.0, QUEUE_BYTES)
    one.pop_arrived(0.1)
    assert one.full
    one.pop_arrived(5.0)
    assert not one.full  # both are in flight
    one = queue(rate_bps=MBIT)
    put(one, 0.0, 1024, count=33)
    pauses = {}
    for _ in range(34):
        arrived = one.pop_arrived(one.wake_at or 0.0)
        pauses[one._queued_bytes // 1024] = one.full
        assert len(arrived) <= 1
    assert [queued for queued, full in pauses.items() if full] == list(range(32, 15, -1))


def test_a_faster_link_queues_more_and_the_buffer_is_bounded():
    one = queue(rate_bps=1000 * MBIT)
    put(one, 0.0, 1 << 20, count=3)
    one.pop_arrived(0.0)
    assert not one.full  # 2 MiB are queued; 20 ms are 2.5 MB
    unlimited = queue(delay_s=1.0)
    put(unlimited, 0.0, BUFFER_BYTES)
    unlimited.pop_arrived(0.0)
    assert unlimited.full
    unlimited.pop_arrived(1.0)
    assert not unlimited.full
    one = queue(rate_bps=1e6 * MBIT)  # 20 ms are 2.5 GB
    put(one, 0.0, 1)
    put(one, 0.0, BUFFER_BYTES - 1)
    one.pop_arrived(0.0)
    assert one.full


@pytest.mark.parametrize(
    ("rate_bps", "chunk_bytes"), [(1e5, SEGMENT_BYTES), (10e6, 6250), (1e9, CHUNK_BYTES), (None, CHUNK_BYTES)]
)
def test_slow_links_use_small_chunks(rate_bps, chunk_bytes):
    assert queue(rate_bps=rate_bps).chunk_bytes == chunk_bytes


@pytest.mark.parametrize("first", ["up", "down"])
def test_two_directions_of_one_medium_alternate(first):
    up, down = queue(rate_bps=8 * MBIT), queue(rate_bps=8 * MBIT, delay_s=0.25)
    up.share_medium(down)
    put(up, 0.0, 1000, count=10)
    put(down, 0.0, 1000, count=5)
    arrived: dict[str, list[float]] = {"up": [], "down": []}
    queues = sorted({"up": up, "down": down}.items(), key=lambda item: item[0] != first)
    while any(one.wake_at is not None for one in (up, down)):
        now = min(at for one in (up, down) if (at := one.wake_at) is not None)
        for name, one in queues:
            arrived[name] += [now for _ in one.pop_arrived(now)]
    alternate_ms, late_ms = ([1, 3, 5, 7, 9], 1) if first == "up" else ([2, 4, 6, 8, 10], -1)
    assert arrived["up"] == pytest.approx([ms / 1000 for ms in (*alternate_ms, 11, 12, 13, 14, 15)])
    assert arrived["down"] == pytest.approx([0.25 + (ms + late_ms) / 1000 for ms in alternate_ms])
