"""The closed form against a proportional-fair scheduler that goes slot by slot, and against cases by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.cellular.scheduler import fair_airtime


def slot_by_slot(rates, demands, slots=20_000, window=500.0):
    """Throughput of each user: in every slot the highest rate over average throughput wins, of those who have
    something to send; a user may send what has come in by then and takes as much of the slot as that needs."""
    rates, demands = np.array(rates, dtype=float), np.array(demands, dtype=float)
    average, waiting, sent = np.full(len(rates), 1e-3), np.zeros(len(rates)), np.zeros(len(rates))
    for _ in range(slots):
        waiting += demands
        left, served = 1.0, np.zeros(len(rates))
        while left > 1e-12 and (waiting > 1e-12).any():
            user = np.argmax(np.where(waiting > 1e-12, rates / (average + served / window), -1.0))
            part = min(waiting[user], left * rates[user])
            served[user] += part
            waiting[user] -= part
            left -= part / rates[user]
        average += (served - average) / window
        sent += served
    return sent / slots


def shares(demands):
    return float(fair_airtime(np.array(demands, dtype=float)))


def test_by_hand():
    assert shares([]) == 1
    assert shares([0.25]) == pytest.approx(0.75)  # asks for little and gets it
    assert shares([5, 5, 5]) == pytest.approx(1 / 4)  # all want more: equal airtime
    assert shares([0.1, 5, 5]) == pytest.approx(0.9 / 3)
    assert shares([0.1, 0.32, 5]) == pytest.approx(0.9 / 3)  # 0.32 is above the share, so it is cut to it
    assert shares([0.1, 0.28, 5]) == pytest.approx(0.62 / 2)
    assert fair_airtime(np.array([[0.25, 0.25], [1, 1]])) == pytest.approx([0.5, 1 / 3])


@given(st.lists(st.floats(0, 3), min_size=1, max_size=12))
def test_the_share_uses_all_the_air(demands):
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
def test_slots_come_to_the_closed_form(rates, demands):
    """The first user always has something to send; the rates are constant."""
    throughput = slot_by_slot(rates, demands)
    others = np.array(demands[1:]) / np.array(rates[1:])
    share = fair_airtime(others)
    assert throughput[0] == pytest.approx(rates[0] * share, rel=0.02)
    assert throughput[1:] / np.array(rates[1:]) == pytest.approx(np.minimum(others, share), rel=0.02)
