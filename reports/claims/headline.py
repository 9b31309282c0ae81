"""How many claims of each paper came out how: its predictions first, and all others apart."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, get_args

from reports.claims.claim import ClaimClass
from reports.claims.verdict import UNDECIDED, Judgement, Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
OTHERS: dict[ClaimClass, str] = {"calibrated": "calibrated", "identity": "identities", "ours": "ours"}


class Headline(NamedTuple):
    """Claims of one paper, or of a suite of none.

    ``predictions`` are counted as they came out here, or, where that decides nothing, in the reference run:
    ``by_reference`` of them. ``here`` and ``reference`` count each alone. ``others`` holds, for each class beside
    predictions, how many are reproduced and how many there are.
    """

    name: str
    predictions: Counter[Verdict]
    by_reference: int
    here: Counter[Verdict]
    reference: Counter[Verdict]
    others: dict[ClaimClass, tuple[int, int]]

    def text(self) -> str:
        """``dynsplit: 12 predictions: 3 reproduced, 9 not-comparable; identities 4 of 4``."""
        counts = ", ".join(f"{self.predictions[name]} {name}" for name in VERDICTS if self.predictions[name])
        reference = f" ({self.by_reference} by the reference run)" if self.by_reference else ""
        total = self.predictions.total()
        predictions = f"{total} prediction{'s' * (total != 1)}" + (f": {counts}{reference}" if total else "")
        others = [f"{OTHERS[name]} {held} of {count}" for name, (held, count) in self.others.items() if count]
        return f"{self.name}: {'; '.join([predictions, *others] if total or not others else others)}"


def headlines(judgements: Iterable[Judgement], papers: Mapping[str, str] | None = None) -> list[Headline]:
    """One headline a paper, then one a suite of none; ``papers`` are those of the suites that name one."""
    return [_headline(name, judged) for name, judged in grouped(judgements, papers or {}).items()]


def grouped(judgements: Iterable[Judgement], papers: Mapping[str, str]) -> dict[str, list[Judgement]]:
    """Judgements by paper, then by suite where that names none."""
    found: dict[str, list[Judgement]] = {}
    for one in sorted(judgements, key=lambda one: one.suite not in papers):
        found.setdefault(papers.get(one.suite, one.suite), []).append(one)
    return found


def _headline(name: str, judged: Sequence[Judgement]) -> Headline:
    predictions = [one for one in judged if one.claim_class == "prediction"]
    others: dict[ClaimClass, tuple[int, int]] = {}
    for other in OTHERS:
        of_class = [one for one in judged if one.claim_class == other]
        others[other] = sum(one.counted == "reproduced" for one in of_class), len(of_class)
    return Headline(
        name=name,
        predictions=Counter(one.counted for one in predictions),
        by_reference=sum(one.counted != one.verdict for one in predictions if one.verdict in UNDECIDED),
        here=Counter(one.verdict for one in predictions),
        reference=Counter(one.reference.verdict for one in predictions if one.reference),
        others=others,
    )
