"""The part of a run's cases that one of several machines runs: ``--shard K/N``."""

from collections.abc import Sequence

from bench.suite.document import InputError
from bench.suite.schema import Case

UNKNOWN_S = 1.0  # of a case without an estimate, where no case has one


def shard_of(text: str) -> tuple[int, int]:
    """(K, N) of ``K/N``. Raises InputError."""
    one, _, count = text.partition("/")
    if not (one.isdecimal() and count.isdecimal() and 1 <= int(one) <= int(count)):
        raise InputError([f"--shard: {text}: expected K/N with K from 1 to N, such as 1/4"])
    return int(one), int(count)


def keys_of_shard(cases: Sequence[Case], shard: tuple[int, int]) -> frozenset[str]:
    """The keys of those of ``cases`` that are in ``shard``.

    The longest case goes first, each to the shard with the least to do; a case without an estimate counts as the mean
    of the others. So the same cases give the same shards on every machine, whatever is recorded there.
    """
    known = [case.estimate_s for case in cases if case.estimate_s]
    usual = sum(known) / len(known) if known else UNKNOWN_S
    number, count = shard
    loads = [0.0] * count
    found = set()
    for seconds, key in sorted(
        ((case.estimate_s or usual, case.key) for case in cases), key=lambda one: (-one[0], one[1])
    ):
        least = loads.index(min(loads))
        loads[least] += seconds
        if least == number - 1:
            found.add(key)
    return frozenset(found)
