"""How many claims of each suite came out how: the papers' predictions first, and all others apart."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

from reports.claims.claim import ClaimClass
from reports.claims.verdict import UNDECIDED, Judgement, Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
OTHERS: dict[ClaimClass, str] = {"calibrated": "calibrated", "identity": "identities", "ours": "ours"}


class Headline(NamedTuple):
    """``predictions`` by counted verdict, of which ``by_reference`` count as a reference run judged them.

    ``others`` holds, for each class beside predictions, how many are reproduced and how many there are.
    """

    suite: str
    predictions: Counter[Verdict]
    by_reference: int
    others: dict[ClaimClass, tuple[int, int]]

    def text(self) -> str:
        """``dynsplit: 12 predictions: 3 reproduced, 9 not-comparable; identities 4 of 4``."""
        counts = ", ".join(f"{self.predictions[name]} {name}" for name in VERDICTS if self.predictions[name])
        reference = f" ({self.by_reference} by the reference run)" if self.by_reference else ""
        total = self.predictions.total()
        predictions = f"{total} prediction{'s' * (total != 1)}" + (f": {counts}{reference}" if total else "")
        others = [f"{OTHERS[name]} {held} of {count}" for name, (held, count) in self.others.items() if count]
        return f"{self.suite}: {'; '.join([predictions, *others])}"


def headlines(judgements: Iterable[Judgement]) -> list[Headline]:
    """One headline a suite, in the order of ``judgements``."""
    by_suite: dict[str, list[Judgement]] = {}
    for one in judgements:
        by_suite.setdefault(one.suite, []).append(one)
    return [_headline(suite, judged) for suite, judged in by_suite.items()]


def _headline(suite: str, judged: Sequence[Judgement]) -> Headline:
    predictions = [one for one in judged if one.claim_class == "prediction"]
    others: dict[ClaimClass, tuple[int, int]] = {}
    for name in OTHERS:
        of_class = [one for one in judged if one.claim_class == name]
        others[name] = sum(one.counted == "reproduced" for one in of_class), len(of_class)
    by_reference = sum(one.counted != one.verdict for one in predictions if one.verdict in UNDECIDED)
    return Headline(suite, Counter(one.counted for one in predictions), by_reference, others)
