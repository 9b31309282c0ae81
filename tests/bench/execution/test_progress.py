"""How long the rest takes, by hand."""

import pytest

from bench.execution.progress import Spent, time_left


@pytest.mark.parametrize(
    ("done", "todo", "left_s"),
    [
        ([], [("a", 10.0), ("a", 5.0)], 15.0),
        ([], [("a", 10.0), ("b", None)], None),
        ([], [], 0.0),
        ([Spent("a", 1.0, 3.0)], [("a", 2.0)], 6.0),  # the same experiment: three times as long as thought
        ([Spent("a", 1.0, 3.0), Spent("a", 3.0, 5.0)], [("a", 2.0)], 4.0),
        ([Spent("a", None, 3.0), Spent("a", None, 5.0)], [("a", None), ("b", None)], 8.0),
        ([Spent("a", 1.0, 1.0), Spent("b", None, 5.0)], [("a", None), ("c", None)], 1.0 + 3.0),
        ([Spent("a", None, 5.0)], [("a", 2.0)], 2.0),
        ([Spent("a", 0.0, 0.1)], [("a", 0.0), ("b", 2.0)], 2.0),
        # What ran was estimated at 10 s and took 1, and 90 s are still thought to be left: 91 s for 100.
        ([Spent("a", 1.0, 0.1)] * 10, [("b", 90.0)], 81.9),
        ([Spent("a", 1.0, 0.1)] * 10, [("a", 10.0), ("b", 80.0)], 1.0 + 72.8),
        ([Spent("a", 50.0, 5.0)] * 18, [("b", 100.0)], 19.0),  # by now that is most of it: 190 s for 1,000
    ],
)
def test_estimates_are_scaled_by_how_wrong_they_were(done: list, todo: list, left_s: float | None) -> None:
    assert time_left(done, todo) == (None if left_s is None else pytest.approx(left_s))
