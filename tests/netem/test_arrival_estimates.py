"""Estimates against streams of a link of known rate, losses and jitter, also with a reader late at random."""

import itertools
import random
from statistics import stdev

import pytest

from netem.arrival_estimates import Stamp, estimate_deviation, estimate_stream
from netem.link import Link, LinkProfile

CHUNK_BYTES = 4096


def stamps(profile: LinkProfile, chunks: int, late_s: float = 0.0, share: float = 0.0) -> list[Stamp]:
    """Arrivals of ``chunks`` sent at once; a ``share`` is read up to ``late_s`` late, and later ones not before."""
    link, rng = Link(profile, random.Random(1)), random.Random(2)
    seen, now = [], 0.0
    for number in range(1, chunks + 1):
        now = max(now, link.send(0.0, CHUNK_BYTES) + (rng.random() < share) * rng.uniform(0, late_s))
        seen.append((now, number * CHUNK_BYTES))
    return seen


@pytest.mark.parametrize("configured_bps", [40e6, 38e6, 44e6, None])
def test_the_rate_is_that_of_the_stream_whatever_was_configured(configured_bps):
    seen = stamps(LinkProfile(rate_bps=40e6, delay_s=0.01), 500)
    assert estimate_stream(seen, configured_bps).rate_bps == pytest.approx(40e6, rel=1e-9)


@pytest.mark.parametrize(("share", "late_s"), [(0.02, 0.02), (0.2, 0.004)])
def test_late_readers_change_the_rate_by_less_than_half_a_per_cent(share, late_s):
    seen = stamps(LinkProfile(rate_bps=40e6), 500, late_s, share)
    assert estimate_stream(seen, 40e6).rate_bps == pytest.approx(40e6, rel=0.005)
    seen[-1] = (seen[-1][0] + 0.3, seen[-1][1])  # nor does a late last one
    assert estimate_stream(seen, 40e6).rate_bps == pytest.approx(40e6, rel=0.005)


@pytest.mark.parametrize(("share", "late_s"), [(0.0, 0.0), (0.1, 0.004)])
def test_losses_are_counted_and_taken_out_of_the_rate(share, late_s):
    profile = LinkProfile(rate_bps=40e6, delay_s=0.01, loss=0.01)
    exact = stamps(profile, 500)
    stalled_s = exact[-1][0] - profile.delay_s - 8 * 500 * CHUNK_BYTES / 40e6
    found = estimate_stream(stamps(profile, 500, late_s, share), 40e6, 2 * profile.delay_s)
    assert found.losses == round(stalled_s / (2 * profile.delay_s)) > 5
    assert found.rate_bps == pytest.approx(40e6, rel=0.005)
    assert found.segments == pytest.approx(499 * CHUNK_BYTES / 1448)


def test_a_rate_below_the_configured_one_is_found_and_two_stamps_are_enough():
    slow = stamps(LinkProfile(rate_bps=30e6, delay_s=0.01), 500)
    assert estimate_stream(slow, 40e6, 0.02).rate_bps == pytest.approx(30e6, rel=0.02)
    assert estimate_stream([(1.0, 1000), (3.0, 2000)], 8e3).rate_bps == pytest.approx(4000)


def test_the_deviation_is_that_of_a_normal_despite_late_ones():
    rng = random.Random(3)
    delays = [rng.gauss(0.01, 0.002) for _ in range(4000)]
    assert estimate_deviation(delays) == pytest.approx(stdev(delays), rel=0.05)
    late = [delay + 0.05 * (number % 20 == 0) for number, delay in zip(itertools.count(), delays, strict=False)]
    assert estimate_deviation(late) == pytest.approx(0.002, rel=0.15)
