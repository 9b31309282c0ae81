"""Numbers that a suite's claims judge, as a function of its fitted parameters.

The experiments themselves are run, on the cases that the claims select and with the ``small`` parameters of the suite's
``fit``. A case is run once for the same parameters.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from operator import sub, truediv
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from bench.experiments.common.threads import one_thread
from bench.suite.document import Document, Key, Node
from bench.suite.experiment import Context, Measurement
from bench.suite.fitted import FitSpec, name_of
from bench.suite.schema import Experiment, Suite, points
from reports.claims import statistics as stats
from reports.claims.claim import Bound, Claim, Difference, Order, Ratio, Selector, Value
from reports.record import SCHEMA, Record

Values = Mapping[str, int | float]  # of the fitted parameters


class Place(NamedTuple):
    """Where an experiment has a fitted parameter: its key in ``parameters``."""

    name: str
    key: Key


class Forward:
    """The experiments of ``suite``, which stands in ``document``, for any values of its fitted parameters."""

    def __init__(self, suite: Suite, document: Document, spec: FitSpec, scratch: Path) -> None:
        self._spec = spec
        self._scratch = scratch
        self._suite = suite.file.name
        self._experiments = {one.spec.name: one for one in suite.experiments}
        nodes = document.root.value["experiments"].value
        self._places = {
            one.spec.name: list(places(node.value["parameters"])) if "parameters" in node.value else []
            for one, node in zip(suite.experiments, nodes, strict=True)
        }
        self._known: dict[bytes, list[Measurement]] = {}

    def numbers(self, claim: Claim, values: Values) -> list[float]:
        """What ``claim`` judges, for each case: a number, or the least relative step of an order in its direction."""
        sides = [list(self._records(selector, values)) for selector in claim.selectors]
        pairs = zip(claim.selectors, sides, strict=True)
        rows = stats.join_cases([stats.group_by_case(side, selector.case) for selector, side in pairs])
        if not rows or not all(sides):
            raise ValueError(f"claim {claim.claim}: no record of what it selects at the small parameters")
        return [number(claim, samples) for _, samples in rows]

    def _records(self, selector: Selector, values: Values) -> Iterator[Record]:
        """The records that ``selector`` selects."""
        experiment = self._experiments[selector.experiment]
        here = experiment.spec.at("laptop")
        fields = experiment.parameters_type.__struct_fields__
        small = {name: value for name, value in self._spec.small.items() if name in fields}
        for case, point in points(here.grid):
            if any(key in case and not stats.same(case[key], value) for key, value in selector.case.items()):
                continue
            given = self._filled(selector.experiment, here.parameters, values) | small | point
            for seed in range(self._spec.seeds):
                for one in self._measured(experiment, given, seed):
                    whole = {**case, **one.case}
                    if one.metric == selector.metric and stats.has_values(whole, selector.case):
                        yield self._record(experiment, one, whole, seed)

    def _filled(self, name: str, parameters: dict[str, Any], values: Values) -> dict[str, Any]:
        found = copy.deepcopy(parameters)
        for place in self._places[name]:
            *path, last = place.key
            within: Any = found
            for part in path:
                within = within[part]
            within[last] = values[place.name]
        return found

    def _measured(self, experiment: Experiment, given: dict[str, Any], seed: int) -> list[Measurement]:
        key = msgspec.json.encode((experiment.spec.name, given, seed), order="sorted")
        if key not in self._known:
            context = Context(
                seed=seed,
                scale="laptop",
                mode=experiment.spec.mode,
                shaping="emulated",
                dataset=experiment.dataset,
                data_dir=None,
                device="cpu",
                scratch=self._scratch,
                say=lambda text: None,
            )
            with one_thread():
                self._known[key] = list(experiment.function(experiment.parameters(given), context))
        return self._known[key]

    def _record(self, experiment: Experiment, one: Measurement, case: dict[str, Any], seed: int) -> Record:
        return Record(
            schema=SCHEMA,
            run="fit",
            suite=self._suite,
            experiment=experiment.spec.name,
            case=case,
            metric=one.metric,
            value=one.value,
            unit=one.unit,
            seed=seed,
            mode=experiment.spec.mode,
            scale="laptop",
            dataset=experiment.dataset,
            shaping="emulated",
            device="cpu",
        )


def places(parameters: Node, at: Key = ()) -> Iterator[Place]:
    """Every fitted parameter within ``parameters``."""
    if name := name_of(parameters):
        yield Place(name, at)
    for key, part in parameters.parts.items():
        yield from places(part, (*at, key))


def number(claim: Claim, samples: list[stats.Seeds]) -> float:
    """What one case of ``claim`` has."""
    match claim.form:
        case Value() | Bound():
            return fmean(samples[0].values())
        case Ratio():
            return stats.combine_by_seed(truediv, *samples).mean
        case Difference():
            return stats.combine_by_seed(sub, *samples).mean
        case Order(direction=direction):
            means = [fmean(seeds.values()) for seeds in samples]
            return min(relative_steps(means if direction == "increasing" else means[::-1]))


def relative_steps(means: list[float]) -> Iterable[float]:
    """Each step up, as a share of the mean."""
    return [(after - before) / (abs(fmean(means)) or 1.0) for before, after in pairwise(means)]
