"""The closed form against a slot-by-slot proportional-fair scheduler and cases by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.cellular.traffic import fair_airtime


def slot_by_slot(rates, demands, slots=20_000, window=500.0):
    """Throughput of each user. A slot serves users with queued data in order of rate over average throughput; each
    takes the part of the slot that its queue needs."""
    rates, demands = np.array(rates, dtype=float), np.array(demands, dtype=float)
    average, queued, sent = np.full(len(rates), 1e-3), np.zeros(len(rates)), np.zeros(len(rates))
    for _ in range(slots):
        queued += demands
        left, served = 1.0, np.zeros(len(rates))
        while left > 1e-12 and (queued > 1e-12).any():
            user = np.argmax(np.where(queued > 1e-12, rates / (average + served / window), -1.0))
            part = min(queued[user], left * rates[user])
            served[user] += part
            queued[user] -= part
            left -= part / rates[user]
        average += (served - average) / window
        sent += served
    return sent / slots


def shares(demands):
    return float(fair_airtime(np.array(demands, dtype=float)))


def test_by_hand():
    assert shares([]) == 1
    assert shares([0.25]) == pytest.approx(0.75)  # a small demand is met in full
    assert shares([5, 5, 5]) == pytest.approx(1 / 4)  # no demand is met: equal airtime
    assert shares([0.1, 5, 5]) == pytest.approx(0.9 / 3)
    assert shares([0.1, 0.32, 5]) == pytest.approx(0.9 / 3)  # 0.32 is above the share and is cut
    assert shares([0.1, 0.28, 5]) == pytest.approx(0.62 / 2)
    assert fair_airtime(np.array([[0.25, 0.25], [1, 1]])) == pytest.approx([0.5, 1 / 3])


@given(st.lists(st.floats(0, 3), min_size=1, max_size=12))
def test_shares_use_all_airtime(demands):
    share = shares(demands)
    assert sum(min(demand, share) for demand in demands) + share == pytest.approx(1)


@pytest.mark.parametrize(
    ("rates", "demands"),
    [
        ([10, 10, 10], [99, 99, 99]),
        ([40, 10, 20], [99, 99, 99]),  # different rates, equal airtime
        ([10, 10, 10], [99, 1, 2]),
        ([40, 10, 20, 5], [99, 1, 9, 9]),
    ],
)
def test_slots_converge_to_the_closed_form(rates, demands):
    """The first user has a full buffer; rates are constant."""
    throughput = slot_by_slot(rates, demands)
    others = np.array(demands[1:]) / np.array(rates[1:])
    share = fair_airtime(others)
    assert throughput[0] == pytest.approx(rates[0] * share, rel=0.02)
    assert throughput[1:] / np.array(rates[1:]) == pytest.approx(np.minimum(others, share), rel=0.02)
