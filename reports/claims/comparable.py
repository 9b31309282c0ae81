"""Whether what was measured may be held against a paper's claim about learning: the data, and how long was trained."""

from collections.abc import Iterable, Sequence
from typing import get_args

from reports.claims.claim import Claim
from reports.formatting import number
from reports.record import CaseValue, Record, Scale

SCALES: tuple[Scale, ...] = get_args(Scale)  # from small to large
TRAINED_PICTURES = "trained_pictures"  # metric of a training: pictures, each counted in every epoch


def not_comparable(claim: Claim, sides: Sequence[Sequence[Record]], trained: Sequence[Record]) -> str | None:
    """Reason why the records of ``sides`` say nothing of ``claim``; None if they do.

    ``trained`` are the suite's records of ``TRAINED_PICTURES``; those of the same experiment, seed and case count.
    """
    one = sides[0][0]
    if claim.data not in (None, one.dataset):
        return f"The claim is about {claim.data}; this was {one.dataset} at scale {one.scale}."
    if claim.trained_pictures is None:
        if SCALES.index(one.scale) >= SCALES.index(claim.scale):
            return None
        return f"The claim needs scale {claim.scale}; this was {one.dataset} at scale {one.scale}."
    by_key = {_key(record): record.value for record in trained}
    counts = [by_key.get(_key(record), 0.0) for side in sides for record in side]
    if min(counts) >= claim.trained_pictures:
        return None
    return f"The claim needs {number(claim.trained_pictures)} trained pictures; these are {number(min(counts))}."


def _key(record: Record) -> tuple[str, int, Iterable[tuple[str, CaseValue]]]:
    return record.experiment, record.seed, frozenset(record.case.items())
