"""Report section of a Pareto front: a figure, the front, and a comparison with references and the paper."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from reports.figures import pareto
from reports.figures.draw_pareto import draw_front, front_in_words
from reports.figures.figure import Figures
from reports.formatting import conditions_text, label, number
from reports.pages.document import Block, Heading, Paragraph, Picture, Table, anchor
from reports.pages.environment import EnvironmentTree
from reports.pages.summary import by_conditions, same_for_all
from reports.record import CONDITIONS, CaseValue, Record

PointsByMethod = Mapping[str, Sequence[pareto.ParetoPoint]]
ACCURACY, BYTES, ALL_BYTES = "test_accuracy", "payload_bytes", "all_payload_bytes"
SETTINGS = 6  # of an experiment that have a colour each
BY_STAGE = {
    "title": "Accuracy against bytes, by stage",
    "description": "Payload bytes of all that crossed in a run: training and tests, all links, both directions.",
    "cost": "payload bytes",
    "worth": "test accuracy",
}


def fronts(suite: EnvironmentTree, records: Sequence[Record]) -> Iterator[tuple[EnvironmentTree, list[Record]]]:
    """The fronts that ``suite`` asks for, or the usual one, each with the records that it needs."""
    yield from ((wanted, list(records)) for wanted in suite.get("fronts", ()))
    if not suite.get("fronts") and (usual := by_stage(records)):
        yield usual


def by_stage(records: Iterable[Record]) -> tuple[EnvironmentTree, list[Record]] | None:
    """The front of a suite that asks for none and varies the stage, with the records that it needs; None for others."""
    staged = [record for record in records if "stage" in record.case]
    learned, sums = [record for record in staged if record.metric == ACCURACY], all_bytes(staged)
    experiments = dict.fromkeys(one.experiment for one in sums)
    if len({one.case["stage"] for one in sums}) < 2:
        return None
    common = {"cost": ALL_BYTES, "worth": ACCURACY, "key": "stage"}
    methods = [method | common for name in experiments for method in _methods(name, sums)]
    return BY_STAGE | {"methods": methods}, learned + sums


def _methods(experiment: str, records: Iterable[Record]) -> list[EnvironmentTree]:
    """A method for each setting of what ``experiment`` varies beside the stage, or one if there are many."""
    cases = [
        {key: record.case[key] for key in record.case if key != "stage"}
        for record in records
        if record.experiment == experiment
    ]
    fixed = same_for_all(cases)
    settings: list[dict[str, CaseValue]] = []
    for case in cases:
        if (varied := {key: value for key, value in case.items() if key not in fixed}) not in settings:
            settings.append(varied)
    if not 1 < len(settings) <= SETTINGS:
        return [{"name": experiment, "experiment": experiment}]
    return [{"name": f"{experiment}, {label(one.items())}", "experiment": experiment, "case": one} for one in settings]


def all_bytes(records: Iterable[Record]) -> list[Record]:
    """For each accuracy of ``records`` the payload bytes of all that crossed in its case, with its seed."""
    learned, crossed = [], defaultdict(list)
    for record in records:
        if record.metric == ACCURACY:
            learned.append(record)
        elif record.metric == BYTES:
            crossed[record.experiment, record.seed].append(record)
    found = [(one, _of_case(one, crossed[one.experiment, one.seed])) for one in learned]
    sums = [(one, math.fsum(each.value for each in some)) for one, some in found if some]
    return [replace(one, metric=ALL_BYTES, unit="B", value=value) for one, value in sums]


def _of_case(record: Record, others: Iterable[Record]) -> list[Record]:
    """Those of ``others`` of the case and conditions of ``record``."""
    alike = by_conditions(others).get(next(iter(by_conditions([record]))), [])
    return [one for one in alike if record.case.items() <= one.case.items()]


def pareto_section(drawn: Figures, stem: str, wanted: EnvironmentTree, records: list[Record]) -> Iterator[Block]:
    """Lines for each set of conditions under which a method of ``wanted``, a FrontSpec, was measured.

    The paper's points are drawn and compared only beside results on the paper's data.
    """
    try:
        spec = msgspec.convert(wanted, pareto.FrontSpec)
    except msgspec.ValidationError as error:
        yield Paragraph(f"no front: {error}.", note=True)
        return
    groups = [(conditions, pareto.measured_points(spec, group)) for conditions, group in by_conditions(records).items()]
    for i, (conditions, found) in enumerate(group for group in groups if group[1]):
        front = pareto.pareto_front(point for points in found.values() for point in points)
        dataset = dict(zip(CONDITIONS, conditions, strict=True))["dataset"]
        published = pareto.published_points(spec, dataset)
        drawings = draw_front(spec, found, published, front)
        figure = drawn.add(f"{stem}{f'-{i + 1}' if i else ''}", spec.title, front_in_words(spec, found), drawings)
        yield Heading(2, spec.title, anchor("front", figure.stem))
        yield Paragraph(" ".join(spec.description.split()))
        yield Paragraph(f"Conditions of what was measured: {conditions_text(conditions)}.")
        yield Picture(figure)
        yield Paragraph("Of all that was measured nothing dominates these:")
        heads = ["Method", "Point", spec.cost, spec.worth]
        yield Table(f"{spec.title}: the front", heads, [_cells(point) for point in front])
        yield from _comparison(spec, found, published)
        if spec.printed and not published:
            yield Paragraph(f"The paper's points are of {spec.data}, these of {dataset}: not comparable.")


def _comparison(spec: pareto.FrontSpec, found: PointsByMethod, published: PointsByMethod) -> Iterator[Block]:
    """Compare each reference point, and each of the paper, with the best other method of at most its cost."""
    references = {method.name for method in spec.methods if method.reference}
    others = [point for name, points in found.items() if name not in references for point in points]
    if not others:
        return
    for against, targets in (
        ("the references measured here", [point for name in found if name in references for point in found[name]]),
        ("the paper's own points", [point for points in published.values() for point in points]),
    ):
        pairs = [(point, pareto.best_within_cost(others, point.cost)) for point in targets]
        dominated = sum(best is not None and best.dominates(point) for point, best in pairs)
        if pairs:
            yield Paragraph(f"Against {against}: the other methods dominate {dominated} of {len(pairs)}.")
            heads = ["Method", "Point", spec.cost, spec.worth]
            heads += ["Best at no more", "Its point", "Its cost", "Difference", "Dominates"]
            rows = [[*_cells(point), *_best_cells(point, best)] for point, best in pairs]
            yield Table(f"{spec.title}: against {against}", heads, rows)


def _best_cells(point: pareto.ParetoPoint, best: pareto.ParetoPoint | None) -> list[str]:
    if best is None:
        return ["–", "–", "–", "–", "no"]
    difference = f"{best.worth - point.worth:+.3f}"
    return [*_cells(best)[:3], difference, "yes" if best.dominates(point) else "no"]


def _cells(point: pareto.ParetoPoint) -> list[str]:
    return [point.method, point.name, number(point.cost), number(point.worth)]
