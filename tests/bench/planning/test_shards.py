"""Shards: each case in one of them, balanced by estimates, the same wherever they are made."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.planning.shards import keys_of_shard, shard_of
from bench.suite.document import InputError


def cases(estimates: list[float | None]) -> list[Any]:
    return [SimpleNamespace(key=f"case{number:03}", estimate_s=seconds) for number, seconds in enumerate(estimates)]


@given(st.lists(st.none() | st.floats(0.1, 1000), max_size=40), st.integers(1, 6))
def test_every_case_is_in_one_shard_whatever_the_order(estimates: list[float | None], count: int) -> None:
    listed = cases(estimates)
    shards = [keys_of_shard(listed, (number, count)) for number in range(1, count + 1)]
    assert sorted(key for shard in shards for key in shard) == [case.key for case in listed]
    assert shards == [keys_of_shard(listed[::-1], (number, count)) for number in range(1, count + 1)]


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=40), st.integers(1, 6))
def test_no_shard_has_more_than_the_least_and_one_case(estimates: list[float], count: int) -> None:
    seconds = {case.key: case.estimate_s for case in cases(estimates)}
    shards = [keys_of_shard(cases(estimates), (number, count)) for number in range(1, count + 1)]
    loads = [sum(seconds[key] for key in shard) for shard in shards]
    assert max(loads) <= min(loads) + max(estimates) + 1e-6


def test_the_longest_goes_first() -> None:
    listed = cases([3, 3, 2, 2, 2])
    assert keys_of_shard(listed, (1, 2)) == {"case000", "case002", "case004"}  # 3, 2 and then 2, to 5 each
    assert keys_of_shard(listed, (2, 2)) == {"case001", "case003"}


def test_without_estimates_cases_are_dealt_evenly() -> None:
    assert [len(keys_of_shard(cases([None] * 7), (number, 3))) for number in (1, 2, 3)] == [3, 2, 2]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard_is_said(text: str) -> None:
    with pytest.raises(InputError, match="--shard: "):
        shard_of(text)
    assert shard_of("2/3") == (2, 3)
