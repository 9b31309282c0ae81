"""Length of a training, by which ``reports.claims.comparable`` tells whether claims about learning can be judged."""

from collections.abc import Iterable, Mapping

from bench.suite.experiment import Measurement
from reports.record import TRAINED_PICTURES, CaseValue

Reports = Iterable[Mapping[str, float]]


def of_epochs(epochs: Reports, case: Mapping[str, CaseValue] = {}) -> Measurement:
    """Pictures of the training split that one network saw in ``epochs``, of whatever phases, by its UE's reports."""
    return _measurement((epoch["trained_samples"] for epoch in epochs), case)


def of_rounds(rounds: Reports, case: Mapping[str, CaseValue] = {}) -> Measurement:
    """Pictures that all clients saw in ``rounds``, by the edge servers' reports."""
    return _measurement((one["count"] for one in rounds), case)


def _measurement(counts: Iterable[float], case: Mapping[str, CaseValue]) -> Measurement:
    return Measurement(TRAINED_PICTURES, sum(counts), "pictures", case)
