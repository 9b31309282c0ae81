"""What experiments yield, by metric and case."""

from collections.abc import Iterable

from bench.suite.experiment import Measurement


def by_case(measurements: Iterable[Measurement]) -> dict[tuple, float]:
    """Values by metric and the values of the case."""
    return {(one.metric, *one.case.values()): one.value for one in measurements}


def values(measurements: Iterable[Measurement], metric: str, **case: object) -> list[float]:
    """Values of ``metric`` with at least this case."""
    return [one.value for one in measurements if one.metric == metric and case.items() <= dict(one.case).items()]
