"""Comparisons of numbers, held against Python's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.claims.arithmetic import is_true

numbers = st.one_of(st.integers(-1000, 1000), st.floats(-1e6, 1e6).map(lambda value: round(value, 3))).map(str)
sums = st.recursive(
    numbers, lambda part: st.tuples(part, st.sampled_from("+-*"), part).map(lambda p: f"({' '.join(p)})")
)
comparisons = st.tuples(sums, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), sums).map(" ".join)


@given(st.lists(comparisons, min_size=1, max_size=3).map(" and ".join).filter(lambda text: len(text) <= 500))
def test_a_comparison_is_as_true_as_pythons(comparison: str) -> None:
    assert is_true(comparison) == eval(comparison)


def test_a_chain_compares_each_pair() -> None:
    assert is_true("0.3 < 1 - 0.5 < 0.6")
    assert not is_true("0.3 < 1 - 0.5 < 0.4")
    assert is_true("4e6 * 4 / 1e6 == 16 != 80")


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1 +", "a < 2", "f(1) < 2", "1 < 2 or 2 < 3", "1 in (1, 2)", "[1] < [2]", "True == 1", "'a' == 'a'"),
        *("9 ** 9 > 1", "1 / 0 > 1", "not 1 > 2", "1 is 1", "1 < 2 " + "+ 1" * 200, "(" * 400 + "1" + ")" * 90),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no comparison of numbers"):
        is_true(text)
