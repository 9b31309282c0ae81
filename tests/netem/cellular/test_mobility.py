"""Positions and handovers in closed form."""

import numpy as np
import pytest

from netem.cellular.mobility import SPEED_M_PER_S, Trajectory, distances, serving_cells

SQUARE = Trajectory(((0, 0), (100, 0), (100, 100), (0, 100)), speed_m_per_s=10.0)


def test_a_square_at_constant_speed_and_forty_kilometres_an_hour():
    assert SQUARE.length_m == 400
    times_s = np.array([0, 5, 10, 12.5, 35, 40, 405])
    expected = [(0, 0), (50, 0), (100, 0), (100, 25), (0, 50), (0, 0), (50, 0)]
    assert SQUARE.positions(times_s) == pytest.approx(np.array(expected, dtype=float))
    straight = Trajectory(((0, 0), (40_000, 0)))
    assert straight.positions(np.array([3600.0])) == pytest.approx(np.array([[40_000.0, 0.0]]))
    assert pytest.approx(11.111, abs=1e-3) == SPEED_M_PER_S


def test_distances():
    found = distances(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
    assert found == pytest.approx(np.array([[5, 1], [0, np.hypot(3, 3)]]))


def test_handover_waits_for_the_hysteresis():
    one = np.array([20, 15, 14, 13, 12, 13, 15, 18.0])
    other = np.array([10, 15, 16, 16, 16, 16, 16, 14.0])
    assert serving_cells(np.stack([one, other], axis=1), 3.0).tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert serving_cells(np.stack([one, other], axis=1), 0.0).tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
