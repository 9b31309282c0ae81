"""What does a paper say? A claim as it stands in a suite's YAML, in one of five forms."""

from typing import Literal

import msgspec

from reports.record import CaseValue, Scale

Number = int | float


class Selector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The records of one metric whose case holds at least these values."""

    experiment: str
    metric: str
    case: dict[str, CaseValue] = {}


class Criterion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the measured number must lie: near the paper's (the first two) or within limits (the others).

    Units are the metric's; ``relative`` is a fraction of the paper's number.
    """

    tolerance: float | None = None
    relative: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.near == self.limited or None not in (self.tolerance, self.relative):
            raise ValueError("give one of tolerance and relative, or at_least and/or at_most")
        if min(self.tolerance or 0, self.relative or 0) < 0:
            raise ValueError("tolerance and relative cannot be negative")

    @property
    def near(self) -> bool:
        """The measured number must lie near the paper's."""
        return self.tolerance is not None or self.relative is not None

    @property
    def limited(self) -> bool:
        """The measured number must lie within limits of the claim's own."""
        return self.at_least is not None or self.at_most is not None


class Value(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The number is the paper's: ``tolerance`` or ``relative``."""

    of: Selector


class Bound(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The number is ``at_least`` and/or ``at_most`` so much."""

    of: Selector


class Ratio(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``of`` divided by ``over`` is the paper's number, or within limits."""

    of: Selector
    over: Selector


class Difference(Criterion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``of`` less ``minus`` is the paper's number, or within limits."""

    of: Selector
    minus: Selector


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each of the numbers is larger (``increasing``) or smaller (``decreasing``) than the one before."""

    of: list[Selector]
    direction: Literal["increasing", "decreasing"]

    def __post_init__(self) -> None:
        if len(self.of) < 2:
            raise ValueError("an order needs two or more selectors")


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a paper says, in one of five forms, as it stands in a suite's YAML.

    ``data`` and ``scale`` tell what a ``value`` claim must be measured on to be comparable: that data set
    (any, if none is named) and at least that scale. ``needs_data: false`` marks bytes, counts, cuts and
    costs, which are comparable wherever they were measured. ``inconsistent`` says how the paper contradicts
    itself.
    """

    claim: str
    source: str
    says: str
    paper: Number | list[Number] | None = None
    value: Value | None = None
    bound: Bound | None = None
    ratio: Ratio | None = None
    difference: Difference | None = None
    order: Order | None = None
    needs_data: bool = True
    data: str | None = None
    scale: Scale = "paper"
    inconsistent: str | None = None

    def __post_init__(self) -> None:
        forms = [name for name in FORMS if getattr(self, name) is not None]
        if len(forms) != 1:
            given = " and ".join(forms) or "none"
            raise ValueError(f"claim {self.claim}: give exactly one of {', '.join(FORMS)}; {given} given")
        form = self.form
        if isinstance(form, Value) and form.limited:
            raise ValueError(f"claim {self.claim}: a value takes tolerance or relative, a bound limits")
        if isinstance(form, Bound) and form.near:
            raise ValueError(f"claim {self.claim}: a bound takes at_least and/or at_most")
        if isinstance(form, Criterion) and form.near and not isinstance(self.paper, int | float):
            raise ValueError(f"claim {self.claim}: tolerance and relative need the paper's number in `paper`")
        if self.data is not None and not (self.needs_data and isinstance(form, Value)):
            raise ValueError(f"claim {self.claim}: only a value claim that needs data takes `data`")

    @property
    def form(self) -> Value | Bound | Ratio | Difference | Order:
        """The one form that is given."""
        form = self.value or self.bound or self.ratio or self.difference or self.order
        assert form is not None  # __post_init__ saw to it
        return form

    @property
    def selectors(self) -> list[Selector]:
        """Every selector of the claim, to check that the suite has such an experiment."""
        match self.form:
            case Order(of=of):
                return of
            case Ratio(of=of, over=other) | Difference(of=of, minus=other):
                return [of, other]
            case Value(of=of) | Bound(of=of):
                return [of]


FORMS = ("value", "bound", "ratio", "difference", "order")
