"""Which method gives most for its cost? A picture of all, what nothing dominates, and what dominates the references."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from reports.claims.statistics import CONDITIONS
from reports.figures.draw_pareto import draw_front
from reports.figures.pareto import FrontSpec, Spot, best_within, front, measured, printed
from reports.formatting import escape, number
from reports.pages.environment import EnvironmentTree
from reports.pages.summary import by_conditions
from reports.pages.tables import grid
from reports.record import Record

Methods = Mapping[str, Sequence[Spot]]


def front_section(directory: Path, stem: str, wanted: EnvironmentTree, records: list[Record]) -> Iterable[str]:
    """Lines for each set of conditions under which some method of ``wanted``, a FrontSpec, was measured."""
    try:
        spec = msgspec.convert(wanted, FrontSpec)
    except msgspec.ValidationError as error:
        yield from (f"> Note: no front: {escape(str(error))}.", "")
        return
    groups = [(conditions, measured(spec, group)) for conditions, group in by_conditions(records).items()]
    theirs = printed(spec)
    for i, (conditions, found) in enumerate(group for group in groups if group[1]):
        path = directory / "figures" / f"{stem}{f'-{i + 1}' if i else ''}.png"
        edge = front(spot for spots in found.values() for spot in spots)
        draw_front(spec, found, theirs, edge, path)
        shown = ", ".join(f"{key} {value}" for key, value in zip(CONDITIONS, conditions, strict=True))
        yield from (f"### {escape(spec.title)}", "", escape(spec.description), "")
        yield from (f"Conditions of what was measured: {escape(shown)}.", "")
        yield from (f"![{escape(spec.title)}](figures/{path.name})", "")
        yield from ("Of all that was measured nothing dominates these:", "")
        heads = ["Method", "Point", escape(spec.cost), escape(spec.worth)]
        yield from (grid(heads, [_cells(spot) for spot in edge]), "")
        dataset = dict(zip(CONDITIONS, conditions, strict=True))["dataset"]
        yield from _held_against(spec, found, theirs if spec.data in (None, dataset) else {})
        if spec.printed and spec.data not in (None, dataset):
            yield from (f"The paper's points are of {escape(str(spec.data))}, these of {dataset}: not comparable.", "")


def _held_against(spec: FrontSpec, found: Methods, theirs: Methods) -> Iterable[str]:
    """For each reference point, and each of the paper's, the best of the other methods that costs no more."""
    references = {method.name for method in spec.methods if method.reference}
    own = [spot for name, spots in found.items() if name not in references for spot in spots]
    if not own:
        return
    for told, held in (
        ("the references measured here", [spot for name in found if name in references for spot in found[name]]),
        ("the paper's own points", [spot for spots in theirs.values() for spot in spots]),
    ):
        pairs = [(spot, best_within(own, spot.cost)) for spot in held]
        beaten = sum(best is not None and best.dominates(spot) for spot, best in pairs)
        if pairs:
            yield from (f"Against {told}: the other methods dominate {beaten} of {len(pairs)}.", "")
            heads = ["Method", "Point", escape(spec.cost), escape(spec.worth)]
            heads += ["Best at no more", "Its point", "Its cost", "Difference", "Dominates"]
            yield from (grid(heads, [[*_cells(spot), *_against(spot, best)] for spot, best in pairs]), "")


def _against(spot: Spot, best: Spot | None) -> list[str]:
    if best is None:
        return ["–", "–", "–", "–", "no"]
    difference = f"{best.worth - spot.worth:+.3f}"
    return [*_cells(best)[:3], difference, "yes" if best.dominates(spot) else "no"]


def _cells(spot: Spot) -> list[str]:
    return [escape(spot.method), escape(spot.name), number(spot.cost), number(spot.worth)]
