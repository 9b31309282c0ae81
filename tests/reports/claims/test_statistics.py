"""Significance of an estimate at its exact limits."""

import pytest

from reports.claims.statistics import Estimate


@pytest.mark.parametrize(
    ("mean", "error", "seeds", "expected"),
    [(2.5, 1.0, 3, True), (2.0, 1.0, 3, False), (1.5, 1.0, 3, False), (2.5, 1.0, 2, False), (2.5, None, 1, False)],
)
def test_beyond_is_more_than_two_standard_errors_of_three_seeds(mean, error, seeds, expected):
    found = Estimate(mean, error, seeds)
    assert (found.beyond(0.0, 1), found.beyond(0.0, -1)) == (expected, False)
    assert Estimate(-mean, error, seeds).beyond(0.0, -1) == expected
