"""Following a link, against the queue counted by hand."""

import pytest

from nodes.stages.dynsplit.link_follower import Follower, PathBytes

COSTS = PathBytes(cheap=32, dear=192)


@pytest.mark.parametrize(("budget", "share"), [(0, 0), (32, 0), (64, 0.2), (112, 0.5), (192, 1), (1000, 1)])
def test_the_share_spends_the_budget(budget, share):
    assert COSTS.share(budget) == pytest.approx(share)
    if 0 < share < 1:
        assert share * COSTS.dear + (1 - share) * COSTS.cheap == pytest.approx(budget)
    assert PathBytes(cheap=8, dear=8).share(budget) == 1.0  # a dear path that is not dearer takes all


def test_what_waits_is_what_did_not_fit():
    follower = Follower(waiting=0, carried=100)
    follower = follower.after(sent=150, capacity=100)
    assert follower.waiting == 50
    assert follower.after(sent=20, capacity=100).waiting == 0


def test_after_a_drop_the_share_falls_until_the_queue_is_gone_and_then_returns():
    follower, shares, queues = Follower(0, 12_800), [], []
    for capacity in [12_800] * 5 + [4_000] * 15 + [12_800] * 10:
        share = follower.share(COSTS, samples=100)
        sent = 100 * (share * COSTS.dear + (1 - share) * COSTS.cheap)
        follower = follower.after(sent, capacity)
        shares.append(share)
        queues.append(follower.waiting)
    assert shares[4] == pytest.approx(0.52)
    assert queues[4] == 0 < queues[5]
    assert min(shares[5:20]) < shares[19] == pytest.approx((0.9 * 40 - 32) / 160, abs=0.02)
    assert queues[19] == queues[-1] == 0
    assert shares[-1] == pytest.approx(0.52, abs=0.01)


def test_caution_keeps_its_share_so_many_mean_errors_below_the_estimate_and_a_steady_link_needs_none():
    follower = Follower(0, 1000).after(sent=0, capacity=600)  # 400 off, which counts half
    assert (follower.carried, follower.error) == (800, 200)
    for caution in (0, 1, 2):
        expected = COSTS.share(0.9 * (800 - 200 * caution) / 10)
        assert follower.share(COSTS, samples=10, caution=caution) == pytest.approx(expected)
    assert follower.share(COSTS, samples=10, caution=9) == 0
    follower = Follower(0, 1000)
    for _ in range(3):
        follower = follower.after(sent=500, capacity=1000)
    assert follower.share(COSTS, 10, caution=5) == follower.share(COSTS, 10)
