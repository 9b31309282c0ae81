"""Whether what was measured may be held against a paper's claim about learning: the data, and how long was trained."""

from collections.abc import Sequence
from typing import get_args

from reports.claims.claim import Claim
from reports.claims.statistics import agree
from reports.formatting import number
from reports.record import Record, Scale

SCALES: tuple[Scale, ...] = get_args(Scale)  # from small to large


def not_comparable(claim: Claim, sides: Sequence[Sequence[Record]], trained: Sequence[Record]) -> str | None:
    """Reason why the records of ``sides`` say nothing of ``claim``; None if they do.

    ``trained`` are the suite's records of ``TRAINED_PICTURES``. Those of the same experiment and seed whose case agrees
    with a record's in their common keys are the trainings that it stems from; the shortest of these counts.
    """
    one = sides[0][0]
    if claim.data is not None and not is_of(one.dataset, claim.data):
        return f"The claim is about {claim.data}; this was {one.dataset} at scale {one.scale}."
    if claim.trained_pictures is None:
        if SCALES.index(one.scale) >= SCALES.index(claim.scale):
            return None
        return f"The claim needs scale {claim.scale}; this was {one.dataset} at scale {one.scale}."
    least = min(_least(record, trained) for side in sides for record in side)
    if least >= claim.trained_pictures:
        return None
    return f"The claim needs {number(claim.trained_pictures)} trained pictures; these are {number(least)}."


def _least(record: Record, trained: Sequence[Record]) -> float:
    """The pictures of the shortest training from which ``record`` stems; 0 if there is none."""
    found = [
        one.value
        for one in trained
        if (one.experiment, one.seed) == (record.experiment, record.seed) and agree(record.case, one.case)
    ]
    return min(found, default=0.0)


def is_of(dataset: str, data: str) -> bool:
    """Whether ``dataset`` is ``data`` or a variant, named ``data-…``: other files or another size of its pictures."""
    return dataset == data or dataset.startswith(f"{data}-")
