"""The rate of a link by its transfers: over virtual links of known rate, constant and changing."""

import random

import pytest

from netem.link import SEGMENT_BYTES, Link, LinkProfile
from nodes.splitting.link_estimates import LinkRate

FRAME_BYTES = 100_000


def carry(link: Link, now: float, frame_bytes: int = FRAME_BYTES) -> tuple[int, float, float]:
    """What a receiver sees of a frame sent at ``now``: bytes after the first segment, in how long, until when."""
    first = link.send(now, SEGMENT_BYTES)
    last = link.send(now, frame_bytes - SEGMENT_BYTES)
    return frame_bytes - SEGMENT_BYTES, last - first, last


def link(rate_bps: float, **more: float) -> Link:
    return Link(LinkProfile(rate_bps=rate_bps, **more), random.Random(3))


@pytest.mark.parametrize("rate_bps", [1e5, 8e6, 1e9])
@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_a_steady_links_rate_is_found_by_one_transfer_whatever_its_delay(rate_bps, delay_s):
    rate = LinkRate(5)
    assert rate.rate_bps(0.0) is None
    rate.observe(*carry(link(rate_bps, delay_s=delay_s), 7.0))
    assert rate.rate_bps(8.0) == pytest.approx(rate_bps)


@pytest.mark.parametrize("transfers", [1, 3, 5])
def test_a_new_rate_is_believed_once_more_than_half_of_the_transfers_have_seen_it(transfers):
    changing, rate, found = link(8e6, delay_s=0.01), LinkRate(transfers), []
    changing.change(10.0, LinkProfile(rate_bps=2e6, delay_s=0.01))
    for number in range(20):
        rate.observe(*carry(changing, number + 0.5))
        found.append(rate.rate_bps(number + 1.0))
    late = transfers // 2
    assert found == pytest.approx([8e6] * (10 + late) + [2e6] * (10 - late))


def test_transfers_that_were_held_up_or_lost_segments_do_not_count():
    rate = LinkRate(5)
    for held_up_s in (0.0, 2.0, 0.0, 0.1, 0.0):
        wire_bytes, wire_s, at = carry(link(8e6), 0.0)
        rate.observe(wire_bytes, wire_s + held_up_s, at)
    assert rate.rate_bps(1.0) == pytest.approx(8e6)
    # A lost segment holds a frame up for a round trip of 20 ms; of few frames with one the median knows nothing.
    rate, lossy = LinkRate(21), link(8e6, delay_s=0.01, loss=0.003)
    for number in range(21):
        rate.observe(*carry(lossy, float(number)))
    assert rate.rate_bps(21.0) == pytest.approx(8e6)


def test_small_frames_and_those_of_no_time_tell_nothing_and_all_is_forgotten_in_time():
    rate = LinkRate(5, remember_s=2.0)
    rate.observe(100, 0.5, 0.0)
    rate.observe(1e6, 0.0, 0.0)
    assert rate.rate_bps(0.0) is None
    rate.observe(1e6, 1.0, 1.0)
    rate.observe(1e6, 2.0, 2.0)
    assert rate.rate_bps(3.0) == pytest.approx(6e6)
    assert rate.rate_bps(3.5) == pytest.approx(4e6)
    assert rate.rate_bps(4.5) is None
