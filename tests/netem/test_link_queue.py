"""What waits, what travels, and when does reading pause? Times are given, nothing runs."""

import random

import pytest

from netem.link import SEGMENT_BYTES, LinkProfile
from netem.link_queue import CHUNK_BYTES, HELD_BYTES, WAITING_BYTES, Line

MBIT = 1e6


def line(**profile: float | None) -> Line:
    return Line(LinkProfile(**profile), random.Random(0))  # type: ignore[arg-type]


def run(line: Line, until: float = float("inf")) -> list[tuple[float, bytes | None]]:
    """All that arrives by ``until``, each with its time, when ``due`` is called as ``wake_at`` asks."""
    arrived = []
    while (now := line.wake_at) is not None and now <= until:
        arrived += [(now, piece.data) for piece in line.due(now)]
    return arrived


def test_pieces_arrive_in_order_when_the_link_says():
    one = line(rate_bps=8 * MBIT, delay_s=0.1)
    for data in (b"a" * 1000, b"b" * 2000, b""):
        one.put(1.0, data, None)
    times, data = zip(*run(one), strict=True)
    assert data == (b"a" * 1000, b"b" * 2000, b"")
    assert times == pytest.approx((1.101, 1.103, 1.103))
    assert one.wake_at is None


def test_late_calls_add_no_error_to_the_rate():
    one = line(rate_bps=8 * MBIT)
    for _ in range(100):
        one.put(0.0, bytes(1000), None)
    assert sum(len(one.due(at)) for at in (0.0, 0.0371, 0.0999)) == 99  # at 0.1 s the hundredth
    assert len(one.due(0.1001)) == 1


def test_a_change_meets_all_that_wait():
    one = line(rate_bps=8 * MBIT)
    for _ in range(10):
        one.put(0.0, bytes(1000), None)
    first = run(one, until=0.0045)
    one.change(0.0045, LinkProfile(rate_bps=0.8 * MBIT))
    times = [at for at, _ in first + run(one)]
    assert times == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.005, 0.015, 0.025, 0.035, 0.045, 0.055])


def test_reading_pauses_on_what_waits_not_on_what_travels():
    one = line(rate_bps=MBIT, delay_s=10.0)
    one.put(0.0, bytes(WAITING_BYTES), None)
    one.due(0.0)
    assert not one.full  # the first piece is being sent, nothing waits
    one.put(0.0, bytes(WAITING_BYTES), None)
    one.due(0.1)
    assert one.full
    one.due(5.0)
    assert not one.full  # both travel


def test_reading_resumes_at_half():
    one = line(rate_bps=MBIT)
    for _ in range(33):
        one.put(0.0, bytes(1024), None)
    pauses = {}
    for _ in range(34):
        arrived = one.due(one.wake_at or 0.0)
        pauses[one._waiting_bytes // 1024] = one.full
        assert len(arrived) <= 1
    assert [waiting for waiting, full in pauses.items() if full] == list(range(32, 15, -1))


def test_a_faster_link_lets_more_wait_and_an_unlimited_one_is_bounded():
    one = line(rate_bps=1000 * MBIT)
    for _ in range(3):
        one.put(0.0, bytes(1 << 20), None)
    one.due(0.0)
    assert not one.full  # 2 MiB wait; 20 ms are 2.5 MB
    unlimited = line(delay_s=1.0)
    unlimited.put(0.0, bytes(HELD_BYTES), None)
    unlimited.due(0.0)
    assert unlimited.full
    unlimited.due(1.0)
    assert not unlimited.full


@pytest.mark.parametrize(
    ("rate_bps", "chunk_bytes"), [(1e5, SEGMENT_BYTES), (10e6, 6250), (1e9, CHUNK_BYTES), (None, CHUNK_BYTES)]
)
def test_slow_links_take_small_chunks(rate_bps, chunk_bytes):
    assert line(rate_bps=rate_bps).chunk_bytes == chunk_bytes


def test_two_lines_of_one_medium_take_turns():
    up, down = line(rate_bps=8 * MBIT), line(rate_bps=8 * MBIT, delay_s=0.25)
    up.share_medium(down)
    for _ in range(10):
        up.put(0.0, bytes(1000), None)
    for _ in range(5):
        down.put(0.0, bytes(1000), None)
    arrived: dict[str, list[float]] = {"up": [], "down": []}
    while any(one.wake_at is not None for one in (up, down)):
        now = min(at for one in (up, down) if (at := one.wake_at) is not None)
        for name, one in (("up", up), ("down", down)):
            arrived[name] += [now for _ in one.due(now)]
    assert arrived["up"] == pytest.approx([0.001, 0.003, 0.005, 0.007, 0.009, 0.011, 0.012, 0.013, 0.014, 0.015])
    assert arrived["down"] == pytest.approx([0.252, 0.254, 0.256, 0.258, 0.260])


def test_a_line_plays_a_schedule_to_the_bit():
    one = line()
    one.play(iter([(2.0, LinkProfile(rate_bps=8 * MBIT)), (2.0045, LinkProfile(rate_bps=0.8 * MBIT))]))
    for _ in range(5):
        one.put(2.0, bytes(1000), None)
    # Half of the fifth piece goes at the first rate, half at the second.
    assert [at for at, _ in run(one)] == pytest.approx([2.001, 2.002, 2.003, 2.004, 2.0095])
