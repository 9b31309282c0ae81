"""Profiles on a kernel with netem, measured in a guest kernel that is booted as a process.

User-mode Linux has one processor and its own timers; the bounds allow for that. Measurements that a busy machine
slowed down are repeated: the last attempt counts, and no attempt may be faster or earlier than its profile.
"""

import json
import shutil
from math import sqrt

import pytest
from uml_guest import JITTER_S, MEDIAN_OFF, QUARTILES, RATE_OFF, SPREAD_OFF, as_drawn, in_time

pytestmark = [
    pytest.mark.uml,
    pytest.mark.skipif(shutil.which("linux.uml") is None, reason="Debian's package user-mode-linux is not installed"),
]

TIMEOUT_S = 300
HEADERS = 1.01  # the guest's rounding of packet headers may raise a rate by this


@pytest.fixture(scope="module")
def found(guest) -> dict:
    printed = guest(TIMEOUT_S)
    results = [line for line in printed.splitlines() if line.startswith("RESULT ")]
    assert results, printed[-3000:]
    return json.loads(results[0].removeprefix("RESULT "))


def binomial(count: int, share: float) -> object:
    """Binomial count within five standard deviations of its mean."""
    return pytest.approx(count * share, abs=5 * sqrt(count * share * (1 - share)))


def test_rates_are_those_of_the_profile(found):
    for attempts in found["rates"]:
        assert all(row["whole_bps"] <= HEADERS * row["configured_bps"] for row in attempts), attempts
        assert attempts[-1]["measured_bps"] == pytest.approx(attempts[-1]["configured_bps"], rel=RATE_OFF), attempts


def test_delays_are_those_of_the_profile(found):
    for attempts in found["delays"]:
        assert all(row["least_s"] >= row["configured_s"] for row in attempts), attempts
        assert in_time(attempts[-1]["configured_s"], attempts[-1]["median_s"]), attempts


def test_jitter_has_the_quartiles_of_its_distribution(found):
    for attempts in found["jitters"]:
        least = QUARTILES[attempts[0]["distribution"]][0] - MEDIAN_OFF
        assert all(row["median_s"] / JITTER_S >= least for row in attempts), attempts
        assert as_drawn(**attempts[-1]), attempts


def test_losses_correlated_or_not_are_those_of_the_profile(found):
    loss = found["loss"]
    assert loss["lost"] == binomial(loss["sent"], 0.05)
    assert loss["arrived"] + loss["lost"] == loss["sent"]
    assert loss["lost_after_lost"] == binomial(loss["lost"], 0.05)
    loss = found["loss_correlated"]
    # A chain of correlation r has (1 + r) / (1 - r) times the binomial's variance: 3.
    assert loss["lost"] == pytest.approx(400, abs=5 * sqrt(3 * 4000 * 0.1 * 0.9))
    assert loss["lost_after_lost"] == binomial(loss["lost"], 0.1 + 0.5 * 0.9)


def test_duplicates_and_reordering_are_those_of_the_profile(found):
    assert found["duplicate"]["lost"] == 0
    assert found["duplicate"]["arrived"] - found["duplicate"]["sent"] == binomial(4000, 0.1)
    assert found["reorder"]["arrived"] == 4000
    assert found["reorder"]["overtook"] == binomial(4000, 0.25)


def test_a_limit_drops_excess_packets_a_change_loses_and_delays_nothing_and_no_namespace_is_left(found):
    assert min(found["limit"]) >= 50
    assert found["limit"][-1] == 50  # more if the guest slept while sending
    assert found["changed"] == {"sent": 1000, "arrived": 1000, "in_order": True}
    attempts = found["flow"]
    assert all(flow["bits"] <= HEADERS * flow["most_bits"] for flow in attempts), attempts
    assert attempts[-1]["before_bps"] == pytest.approx(20e6, rel=RATE_OFF), attempts
    assert attempts[-1]["after_bps"] == pytest.approx(5e6, rel=RATE_OFF), attempts
    assert found["left"] == []


def test_tc_shows_settings_computed_by_hand(found):
    if found["shown"] is None:
        pytest.skip("iproute2's tc is not installed")  # the other tests measure the settings
    common = "linklayer ethernet overhead -66"
    assert found["shown"] == [
        # 2.5 MB/s: 10 ms and 4 x 2 ms in flight, 20 ms queued; 95,000 bytes are 66 segments.
        f"qdisc netem 1: root refcnt 2 limit 66 delay 10ms 2ms 75% loss 25% duplicate 50% reorder 12.5% rate 20Mbit"
        f" gap 1 {common}",
        # From good to bad 0.1 x 0.5, back 0.9 x 0.5.
        f"qdisc netem 1: root refcnt 2 limit 77 delay 2.5ms loss gemodel p 5% r 45% 1-h 100% 1-k 0% rate 8Mbit"
        f" {common}",
        # 2^32 - 1 bytes/s, 20 ms of them queued.
        f"qdisc netem 1: root refcnt 2 limit 59323 rate 34359Mbit {common}",
    ]


def test_the_named_links_are_within_what_bench_links_allows(found):
    assert len(found["held"]) == 4
    for row in found["held"]:
        assert row["measured_rate_bps"] <= (1 + RATE_OFF) * row["rate_bps"], row
        # On a slow host, where the guest carries less than twice the rate unshaped, the shaper is not the bottleneck.
        slow = row["carried_bps"] < 2 * row["rate_bps"] and row["measured_rate_bps"] < row["rate_bps"]
        reached = row["measured_rate_bps"] >= (1 - RATE_OFF) * row["rate_bps"]
        assert reached or (slow and row["measured_rate_bps"] > 0.4 * row["carried_bps"]), row
        assert in_time(row["delay_s"], row["measured_delay_s"]), row
        assert row["measured_jitter_s"] == pytest.approx(row["jitter_s"], rel=SPREAD_OFF), row
        assert row["least_delay_s"] >= row["delay_s"], row
        assert HEADERS * row["least_message_s"] >= row["delay_s"] + 8 * row["message_bytes"] / row["rate_bps"], row
