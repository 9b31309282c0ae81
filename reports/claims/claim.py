"""Claims of a paper, as a suite's YAML states them, in one of five forms."""

from typing import Literal

import msgspec

from reports.claims.arithmetic import is_true
from reports.formatting import number
from reports.record import CaseValue, Scale

Number = int | float
Numbers = Number | list[Number] | None
ClaimClass = Literal["prediction", "calibrated", "identity", "ours"]


class Selector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Selects the records of one metric with all values of ``case``."""

    experiment: str
    metric: str
    case: dict[str, CaseValue] = {}


class Criterion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Accepted range of the measured number, in the unit of the metric.

    Either within ``tolerance`` of the paper's number, or ``relative`` (a fraction of it), or limits: ``at_least``
    and/or ``at_most``. Raises ValueError for any other combination, or a negative tolerance.
    """

    tolerance: float | None = None
    relative: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.near == self.limited or None not in (self.tolerance, self.relative):
            raise ValueError("give one of tolerance and relative, or at_least and/or at_most")
        if min(self.tolerance or 0, self.relative or 0) < 0:
            given = self.relative if self.tolerance is None else self.tolerance
            raise ValueError(f"tolerance and relative must not be negative, got {given}")

    @property
    def near(self) -> bool:
        return self.tolerance is not None or self.relative is not None

    @property
    def limited(self) -> bool:
        return self.at_least is not None or self.at_most is not None


class Value(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``of`` equals the paper's number, within ``tolerance`` or ``relative``."""

    of: Selector


class Bound(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``of`` is within ``at_least`` and/or ``at_most``."""

    of: Selector


class Ratio(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``of`` divided by ``over`` equals the paper's number, or is within limits."""

    of: Selector
    over: Selector


class Difference(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``of`` minus ``minus`` equals the paper's number, or is within limits."""

    of: Selector
    minus: Selector


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each number of ``of`` is larger (``increasing``) or smaller (``decreasing``) than the previous one."""

    of: list[Selector]
    direction: Literal["increasing", "decreasing"]

    def __post_init__(self) -> None:
        if len(self.of) < 2:
            raise ValueError(f"an order needs two or more selectors in `of`, got {len(self.of)}")


class Contradiction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the paper contradicts itself. Raises ValueError unless ``shown_by``, a comparison of numbers, is true."""

    says: str
    shown_by: str

    def __post_init__(self) -> None:
        if not is_true(self.shown_by):
            raise ValueError(f"shown_by: {self.shown_by} is false, so it shows no contradiction")


class Together(Contradiction, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a claim's number cannot hold where that of one of ``claims`` does."""

    claims: list[str]


class Premise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must have come out, beyond its noise, for a claim to be judged at all, as "the network has learned"."""

    of: Selector
    at_least: float


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One claim of a paper, in exactly one of five forms. Raises ValueError for fields that do not fit together.

    ``claim_class``, ``class`` in YAML, says what a verdict on it is worth: a ``prediction`` is a number or direction of
    the paper to which nothing was fitted; a ``calibrated`` one was fitted to, or follows from one that was; an
    ``identity`` is true by construction, by arithmetic, or as a self-test; the others are ``ours``, hypotheses and
    goals of who wrote the suite.

    A claim that ``needs_data`` speaks of learning. It is judged on ``data`` (None: any) where each network was trained
    on ``trained_pictures`` or more, counted in each epoch, or, if that is None, at ``scale`` or above. The others, of
    bytes, counts, cuts and costs that nothing learned decides, are comparable on any data, at any scale. What is
    ``deterministic`` has the same value for all seeds, so that one is enough. A ``headline`` is one of the about ten
    numbers that the paper is known for, which the front page of a report shows.
    """

    claim: str  # name, unique in the suite
    source: str  # table, figure, equation or section of the paper
    statement: str  # in words
    claim_class: ClaimClass = msgspec.field(name="class", default="prediction")
    headline: bool = False
    paper: Numbers = None
    value: Value | None = None
    bound: Bound | None = None
    ratio: Ratio | None = None
    difference: Difference | None = None
    order: Order | None = None
    deterministic: bool = False
    needs_data: bool = True
    data: str | None = None
    scale: Scale = "paper"
    trained_pictures: int | None = None
    premise: Premise | None = None
    inconsistent: Contradiction | str | None = None
    impossible: Together | None = None

    def __post_init__(self) -> None:
        forms = [name for name in FORMS if getattr(self, name) is not None]
        if len(forms) != 1:
            given = " and ".join(forms) or "none"
            raise ValueError(f"claim {self.claim}: give exactly one of {', '.join(FORMS)}; {given} given")
        form = self.form
        if isinstance(form, Value) and form.limited:
            raise ValueError(f"claim {self.claim}: a value takes tolerance or relative; for limits use a bound")
        if isinstance(form, Bound) and form.near:
            raise ValueError(f"claim {self.claim}: a bound takes at_least and/or at_most; for a tolerance use a value")
        if isinstance(form, Criterion) and form.near and not isinstance(self.paper, int | float):
            raise ValueError(f"claim {self.claim}: tolerance and relative need the paper's number in `paper`")
        if not self.needs_data and (self.data is not None or self.trained_pictures is not None):
            raise ValueError(f"claim {self.claim}: only one that needs data takes `data` and `trained_pictures`")
        if self.impossible and self.claim in self.impossible.claims:
            raise ValueError(f"claim {self.claim}: `impossible` names other claims, not its own")

    @property
    def form(self) -> Value | Bound | Ratio | Difference | Order:
        form = self.value or self.bound or self.ratio or self.difference or self.order
        assert form is not None  # checked by __post_init__
        return form

    @property
    def wanted(self) -> str:
        """What is accepted, in short: ``0.808 to 0.848``, ``at least 3``, ``increasing``."""
        match self.form:
            case Order(direction=direction):
                return direction
            case Criterion(at_least=low, at_most=high) as form if form.limited:
                limits = (("at least", low), ("at most", high))
                return ", ".join(f"{name} {number(limit)}" for name, limit in limits if limit is not None)
            case Criterion(tolerance=tolerance, relative=relative):
                assert isinstance(self.paper, int | float)  # checked by __post_init__
                allowed = abs(self.paper) * (relative or 0.0) if tolerance is None else tolerance
                return f"{number(self.paper - allowed)} to {number(self.paper + allowed)}"

    @property
    def selectors(self) -> list[Selector]:
        match self.form:
            case Order(of=of):
                return of
            case Ratio(of=of, over=other) | Difference(of=of, minus=other):
                return [of, other]
            case Value(of=of) | Bound(of=of):
                return [of]

    @property
    def needed(self) -> list[Selector]:
        """All that the claim is judged by, its premise included."""
        return [*self.selectors, *([self.premise.of] if self.premise else [])]


FORMS = ("value", "bound", "ratio", "difference", "order")
