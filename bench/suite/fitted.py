"""Parameters that a paper leaves open: which numbers decide them, and the values found, in place of ``$fitted.NAME``.

A suite's key ``fit`` has a ``FitSpec``, or names the file with one. ``bench fit`` writes the values to the spec's file
``result`` beside the suite; until then a parameter has its ``start``.
"""

import re
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from bench.suite.document import Document, Node, read_or_note
from bench.suite.parameter_types import Count, Positive
from nodes.imports import did_you_mean

MARK = re.compile(r"\$fitted\.(\w*)")
Name = Annotated[str, msgspec.Meta(pattern=r"^\w+$")]


Amount = int | float


class FitParameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parameter within ``bounds``, or one of ``choices``; ``why`` says where they come from."""

    why: str
    start: Amount
    bounds: tuple[Amount, Amount] | None = None
    choices: list[Amount] = []

    def __post_init__(self) -> None:
        if (self.bounds is None) == (not self.choices):
            raise ValueError("give either bounds or choices")
        if self.bounds is None and self.start not in self.choices:
            raise ValueError(f"start {self.start} is none of the choices")
        if self.bounds is not None and not 0 < self.bounds[0] < self.start < self.bounds[1]:
            raise ValueError(f"expected 0 < lower bound < start < upper bound, got {self.bounds} and {self.start}")


class FitTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim with a number that the parameters decide. Its residual is counted in tolerances, times ``weight``.

    ``relative`` is a tolerance in place of the claim's, as a share of its number. Where ``reached``, the worst of a
    bound's cases has the paper's number, or the limit where the claim has none.
    """

    claim: str
    weight: Positive = 1.0
    relative: Positive | None = None
    reached: bool = False


class FitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a suite is fitted. ``small`` replaces parameters of all experiments that have them, while fitting.

    The ``used`` claims decide the parameters; the ``held_out`` ones are compared with the result.
    """

    result: str
    parameters: dict[Name, FitParameter]
    used: list[FitTarget]
    held_out: list[FitTarget] = []
    small: dict[str, Any] = {}
    seeds: Count = 1


def spelt_out(document: Document, fit: Node) -> Node:
    """The mapping in the file that ``fit`` names, or ``fit`` itself where it names none."""
    if not isinstance(fit.value, str):
        return fit
    other = read_or_note(fit.path.parent / fit.value)
    document.absorb(other)
    return replace(fit, value={}) if other.value is None else other.root


def filled(document: Document, own: dict[str, Node]) -> dict[str, Node]:
    """The suite's parts ``own`` with the value for each ``$fitted.NAME`` in its experiments and what they share.

    Such a value keeps the file and the key where it stands, see ``name_of``.
    """
    if "fit" not in own:
        return own
    fit = spelt_out(document, own["fit"])
    values = _values(document, fit)
    used: set[str] = set()

    def fill(node: Node) -> Node:
        if node.parts:
            return node.mapped(fill)
        mark = MARK.fullmatch(node.value) if isinstance(node.value, str) else None
        if mark is None:
            return node
        if mark[1] not in values:
            document.note(node, f"no fitted parameter {mark[1]!r}{did_you_mean(mark[1], values)}")
            return node
        used.add(mark[1])
        return values[mark[1]]

    found = {key: fill(node) if key in ("defaults", "groups", "experiments") else node for key, node in own.items()}
    for name in values.keys() - used:
        document.note(fit.value["parameters"].value[name], f"nothing in the suite is $fitted.{name}")
    return found | {"fit": fit}


def name_of(node: Node) -> str | None:
    """The parameter of which ``node`` is the fitted value, or the start."""
    match node.key:
        case ("values", str(name)) | ("parameters", str(name), "start") | ("fit", "parameters", str(name), "start"):
            return name
    return None


def _values(document: Document, fit: Node) -> dict[str, Node]:
    """The fitted value of each parameter, or its start."""
    parts = fit.value if isinstance(fit.value, dict) else {}
    parameters = parts["parameters"].value if "parameters" in parts else None
    starts = {
        name: one.value["start"]
        for name, one in (parameters if isinstance(parameters, dict) else {}).items()
        if isinstance(one.value, dict) and "start" in one.value
    }
    result = parts.get("result")
    path = fit.path.parent / result.value if result and isinstance(result.value, str) else None
    if result is None or path is None or not path.exists():
        return starts
    other = read_or_note(path)
    document.absorb(other)
    found = other.root.value.get("values") if isinstance(other.root.value, dict) else None
    if found is None or not isinstance(found.value, dict) or found.value.keys() != starts.keys():
        document.note(result, f"{path.name} has no value for each parameter; delete it and run bench fit again")
        return starts
    return dict(found.value)
