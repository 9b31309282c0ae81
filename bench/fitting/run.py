"""``bench fit SUITE``: fit a suite's open parameters to printed numbers, and write the file that the suite reads."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.execution.loader import load
from bench.fitting.forward import Forward
from bench.fitting.solve import Numbers, Search, Target, conflicts, fit, met
from bench.suite.document import InputError, as_yaml
from bench.suite.find import find, read_suite
from bench.suite.fitted import FitSpec, FitTarget
from bench.suite.schema import Suite
from reports.claims.claim import Claim
from reports.formatting import number as shown

HEADER = "# Written by `bench fit {name}`, from the numbers of `{spec}`.\n"


def run_fit(name: str, out: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Fit the suite ``name`` and write the result beside it, or to ``out``. Returns what is written.

    Raises InputError for a suite without ``fit``, or whose targets are no claims of virtual experiments.
    """
    try:
        path = find(name, Path())
    except ValueError as error:
        raise InputError([f"{name}:1: suite: {error}"]) from None
    suite = next(one for one in load([str(path)]) if one.path.resolve() == path.resolve())
    spec = suite.file.fit
    if spec is None:
        raise InputError([f"{path}:1: fit: this suite has none; expected parameters and used claims"])
    used, held_out = (list(_targets(suite, targets)) for targets in (spec.used, spec.held_out))
    with tempfile.TemporaryDirectory() as scratch:
        forward = Forward(suite, read_suite(path), spec, Path(scratch))
        result = _result(spec, used, held_out, forward.numbers, say)
    out = out or path.parent / spec.result
    out.write_text(HEADER.format(name=suite.file.name, spec=path.name) + as_yaml(result), encoding="utf-8")
    say(f"wrote {out}")
    return result


def as_lines(result: dict[str, Any]) -> Iterator[str]:
    """``result`` for people."""
    for name, value in result["values"].items():
        yield f"{name}: {value}{' (at its bound)' if name in result['at_bounds'] else ''}"
    for part in ("used", "held_out"):
        for row in result[part]:
            off = f"{row['residual']} tolerances, {'met' if row['met'] else 'not met'}"
            yield f"{part} {row['claim']}: {row['measured']}, paper {row['paper']}: {off}"
    for row in result["conflicts"]:
        what = "holds if these give way" if row["reached"] else f"comes to {row['measured']} at the least cost to"
        yield f"{row['claim']} {what}: {', '.join(row['gives_way']) or 'none'}"


def _targets(suite: Suite, targets: list[FitTarget]) -> Iterator[Target]:
    claims = {claim.claim: claim for claim in suite.file.claims}
    modes = {one.spec.name: one.spec.mode for one in suite.experiments}
    for target in targets:
        claim = claims.get(target.claim)
        if claim is None or any(modes[selector.experiment] != "virtual" for selector in claim.selectors):
            raise InputError([f"{suite.path}:1: fit: {target.claim!r} is no claim of virtual experiments"])
        yield Target(claim, target)


def _result(
    spec: FitSpec, used: list[Target], held_out: list[Target], numbers: Numbers, say: Callable[[str], None]
) -> dict[str, Any]:
    found: list[Search] = []
    for one in fit(spec.parameters, used, numbers):
        found.append(one)
        ended = "converged" if one.converged else "not converged"
        values = ", ".join(f"{name} {value}" for name, value in one.values.items())
        say(f"cost {shown(one.cost)}, {ended} after {one.evaluations} evaluations: {values}")
    best = min(found, key=lambda one: one.cost).values
    both = [*used, *held_out]
    found_conflicts = list(conflicts(spec.parameters, best, both, numbers))
    for conflict in found_conflicts:
        say(f"{conflict.claim}: {', '.join(conflict.gives_way) or 'nothing'} gives way")
    bounds = {name: one.bounds for name, one in spec.parameters.items() if one.bounds}
    at_bounds = [name for name, (low, high) in bounds.items() if not 1.001 * low < best[name] < 0.999 * high]
    return {
        "values": best,
        "at_bounds": at_bounds,
        "searches": [{**one._asdict(), "cost": _short(one.cost), "values": dict(one.values)} for one in found],
        "used": [_row(target, numbers(target.claim, best)) for target in used],
        "held_out": [_row(target, numbers(target.claim, best)) for target in held_out],
        "conflicts": [one._asdict() | {"measured": _short(one.measured)} for one in found_conflicts],
    }


def _row(target: Target, numbers: list[float]) -> dict[str, Any]:
    measured = _short(target.worst(numbers))
    row = {"claim": target.claim.claim, "paper": _printed(target.claim), "measured": measured}
    return row | {"residual": _short(target.residual(numbers)), "met": met(target, numbers)}


def _printed(claim: Claim) -> Any:
    return claim.paper if claim.paper is not None else claim.statement


def _short(value: float) -> float:
    return float(f"{value:.4g}")
