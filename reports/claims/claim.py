"""Claims of a paper, as a suite's YAML states them, in one of five forms."""

from typing import Literal

import msgspec

from reports.record import CaseValue, Scale

Number = int | float
Numbers = Number | list[Number] | None


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


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One claim of a paper, in exactly one of five forms. Raises ValueError for fields that do not fit together."""

    claim: str  # name, unique in the suite
    source: str  # table, figure, equation or section of the paper
    statement: str  # in words
    paper: Numbers = None
    value: Value | None = None
    bound: Bound | None = None
    ratio: Ratio | None = None
    difference: Difference | None = None
    order: Order | None = None
    needs_data: bool = True  # False for bytes, counts, cuts and costs, which are comparable on any data, at any scale
    data: str | None = None  # on which a value claim is comparable; None for any
    scale: Scale = "paper"  # smallest at which a value claim is comparable
    inconsistent: str | None = None  # how the paper contradicts itself

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
        if self.data is not None and not (self.needs_data and isinstance(form, Value)):
            raise ValueError(f"claim {self.claim}: only a value claim that needs data takes `data`")

    @property
    def form(self) -> Value | Bound | Ratio | Difference | Order:
        form = self.value or self.bound or self.ratio or self.difference or self.order
        assert form is not None  # checked by __post_init__
        return form

    @property
    def selectors(self) -> list[Selector]:
        match self.form:
            case Order(of=of):
                return of
            case Ratio(of=of, over=other) | Difference(of=of, minus=other):
                return [of, other]
            case Value(of=of) | Bound(of=of):
                return [of]


FORMS = ("value", "bound", "ratio", "difference", "order")
