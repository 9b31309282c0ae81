"""Suites, found, read and checked: whether all that they ask for is there and fits together. Runs nothing."""

import inspect
import math
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.experiments import MODULES, modes_of
from bench.suite.document import Document, InputError, Key
from bench.suite.expansion import plain
from bench.suite.find import find, packaged, read_suite
from bench.suite.parameter_types import available_dataset, decoder
from bench.suite.schema import SCALES, Axis, Experiment, ExperimentSpec, Override, Run, Suite, SuiteFile, Teller, points
from bench.suite.strict_yaml import convert, sound
from nodes.files import read_anew
from nodes.imports import did_you_mean, load_callable, registered, registered_names
from nodes.user_code import UserExitError, contained
from nodes.user_modules import UserModules, user_modules
from reports.claims.claim import Claim
from reports.figures.pareto import FrontSpec
from reports.record import CaseValue, Scale

T = TypeVar("T")
MOST_CASES = 10_000  # of an experiment at one scale: each is held against the others before anything runs


def load(names: Iterable[str], data_dir: Path | None = None, checked: bool = False) -> list[Suite]:
    """Suites that ``names`` mean and include, each once, without mere includers. Raises InputError with every error.

    Parameters that have been ``checked`` before are not held against each other, and models not built, once more.
    """
    read_anew()
    loader = _Loader(data_dir, checked)
    for name in names:
        try:
            loader.add(find(name, Path()), ())
        except ValueError as error:
            loader.problems.append(f"{name}:1: suite: {error}")
    if loader.problems:
        raise InputError(loader.problems)
    return [suite for suite in loader.suites if suite.experiments or suite.file.claims]


class _Loader:
    """Reads suites depth first, each file once, and gathers what is wrong with them."""

    def __init__(self, data_dir: Path | None, checked: bool) -> None:
        self.data_dir, self.checked = data_dir, checked
        self.suites: list[Suite] = []
        self.problems: list[str] = []
        self._read: set[Path] = set()
        self._names: set[str] = set()

    def add(self, path: Path, parents: tuple[Path, ...]) -> None:
        real = path.resolve()
        if real in self._read:
            return
        self._read.add(real)
        document = read_suite(path)
        ours = packaged().values()
        own = [file.resolve().parent for file in document.files if file.resolve() not in ours]
        modules = user_modules([*own, Path()])
        modules.forget_changed()
        if document.value is not None:
            self._include(document, (*parents, real))
            with modules.in_use():
                self._check(document, modules)
        self.problems += [line for line in document.lines if line not in self.problems]

    def _include(self, document: Document, parents: tuple[Path, ...]) -> None:
        names = document.value.get("include") if isinstance(document.value, dict) else None
        for index, name in enumerate(names if isinstance(names, list) else []):
            try:
                path = find(str(name), document.path.parent)
                if path.resolve() in parents:
                    raise ValueError(f"{name!r} includes this file again")
            except ValueError as error:
                document.problem(("include", index), str(error))
            else:
                self.add(path, parents)

    def _check(self, document: Document, modules: UserModules) -> None:
        convert(document, SuiteFile)
        file = sound(document, SuiteFile, document.value, ())
        if file is None:
            return
        if file.name in self._names:
            document.problem(("name",), f"there is another suite {file.name!r}")
        self._names.add(file.name)
        specs = dict(_sound_items(document, "experiments", ExperimentSpec))
        ready = dict(_experiments(document, file, specs, self.data_dir, modules))
        for at, experiment in () if self.checked else ready.items():
            try:
                with contained():
                    _check_parameters(document, at, experiment, self.data_dir)
            except UserExitError as error:
                document.problem((*at, "run"), str(error))
        _check_claims(document, specs.values())
        _check_fronts(document, [spec.name for spec in specs.values()])
        if not document.problems:
            experiments, notes = list(ready.values()), list(map(str, document.notes))
            self.suites.append(Suite(file, document.path, experiments, plain(document), notes))


def _sound_items(document: Document, name: str, kind: type[T]) -> Iterator[tuple[int, T]]:
    items = document.value.get(name)
    for index, value in enumerate(items if isinstance(items, list) else []):
        if (item := sound(document, kind, value, (name, index))) is not None:
            yield index, item


def _experiments(
    document: Document, file: SuiteFile, specs: dict[int, ExperimentSpec], data_dir: Path | None, modules: UserModules
) -> Iterator[tuple[Key, Experiment]]:
    seen: set[str] = set()
    for index, spec in specs.items():
        at: Key = ("experiments", index)
        if spec.name in seen:
            document.problem((*at, "name"), f"there is another experiment {spec.name!r}")
        seen.add(spec.name)
        if spec.parallel and spec.mode == "live":
            document.problem((*at, "parallel"), "cases of mode live start nodes of their own, which need all cores")
        dataset = "unknown"
        try:
            dataset = available_dataset(spec.dataset or file.dataset, data_dir)
        except ValueError as error:
            document.problem((*at, "dataset") if spec.dataset else ("dataset",), str(error))
        try:
            function, kind = resolve_run(spec.run)
        except ValueError as error:
            document.problem((*at, "run"), str(error))
        else:
            if (modes := modes_of(spec.run)) and spec.mode not in modes:
                document.problem((*at, "mode"), f"got {spec.mode}; {spec.run} runs in mode {' or '.join(modes)} alone")
            told = _teller(document, at, spec)
            stands_in = dataset not in (spec.dataset or file.dataset)
            given = function, kind, dataset, decoder(data_dir)
            yield at, Experiment(file.name, spec, *given, told, modules, stands_in)


def resolve_run(run: str) -> tuple[Run, type[msgspec.Struct]]:
    """The function that ``run`` names and the type of its parameters. Raises ValueError."""
    file, _, name = run.rpartition(".")
    if ":" in run:
        function = load_callable(run)
    elif file in MODULES:
        function = load_callable(f"bench.experiments.{MODULES[file]}:{name}")
    elif path := registered("experiments", run):
        function = load_callable(path)
    else:
        known = [*MODULES, *registered_names("experiments")]
        hint = did_you_mean(file or run, known) or "; functions of one's own are module:function"
        raise ValueError(f"no file {file!r} in bench.experiments{hint}")
    try:
        first = next(iter(inspect.signature(function).parameters), "")
        kind = typing.get_type_hints(function).get(first)
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"{run}: its annotations cannot be read: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise ValueError(f"{run}: the first argument must be annotated with a msgspec.Struct of parameters")
    return function, kind


def _check_parameters(document: Document, at: Key, experiment: Experiment, data_dir: Path | None) -> None:
    if not _is_bounded(document, at, experiment.spec):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(experiment.parameters_type)}
    for key, name, value in _given(document, at, experiment.spec):
        if name in fields:
            convert(document, fields[name], experiment.dec_hook, value=value, at=key)
        else:
            takes = did_you_mean(name, fields) or f"; it takes {', '.join(fields) or 'none'}"
            where = key[: key.index(name) + 1]  # not each value of a grid
            document.problem(where, f"no parameter of {experiment.spec.run}{takes}")
    if not document.wrong(at) - {"mode"}:
        _check_points(document, at, experiment, data_dir)


def _is_bounded(document: Document, at: Key, spec: ExperimentSpec) -> bool:
    """Whether there are few enough cases to look at each; else the largest axis is noted."""
    for here in map(spec.at, SCALES):
        size = math.prod(len(axis) for axis in here.grid.values()) * (here.seeds or 1)
        if size > MOST_CASES:
            largest = max(here.grid, key=lambda name: len(here.grid[name]), default="")
            key: Key = ("grid", largest) if here.grid and len(here.grid[largest]) > 1 else ("seeds",)
            document.problem((*at, *key), f"{size:,} cases at one scale, at most {MOST_CASES:,}; divide the experiment")
            return False
    return True


def _given(document: Document, at: Key, spec: ExperimentSpec) -> Iterator[tuple[Key, str, Any]]:
    """(where it stands, name, value) of every parameter in ``spec``."""
    layers: list[tuple[Key, dict[str, Any], dict[str, Axis]]] = [(at, spec.parameters, spec.grid)]
    layers += [((*at, "scales", name), scale.parameters, scale.grid) for name, scale in spec.scales.items()]
    for here, parameters, grid in layers:
        for name, value in parameters.items():
            yield (*here, "parameters", name), name, value
        for name, axis in grid.items():
            key: Key = (*here, "grid", name)
            if not axis or (isinstance(axis, list) and len(set(axis)) < len(axis)):
                document.problem(key, "needs one value or more, each once")
            for part, value in axis.items() if isinstance(axis, dict) else enumerate(axis):
                yield (*key, part), name, value


def _check_points(document: Document, at: Key, experiment: Experiment, data_dir: Path | None) -> None:
    """Note parameters that are each right but not together, each message once, and those that no case uses."""
    said = set()
    unused: list[set[tuple[Key, str]]] = []  # of each case
    for scale in SCALES:
        here = experiment.spec.at(scale)
        for case, point in points(here.grid):
            problems = experiment.problems(here.parameters | point, data_dir)
            unused.append({(one.key, one.message) for one in problems if one.unused})
            for key, message, note in ((one.key, one.message, one.note) for one in problems if not one.unused):
                stands = (*at, *_given_at(experiment.spec, scale, case, key))
                if note:
                    document.tell(stands, message)
                elif (stands, message) not in said:
                    said.add((stands, message))
                    values = "".join(f", {name} {value}" for name, value in case.items())
                    document.problem(stands, f"{message} (at scale {scale}{values})")
    if unused and not document.wrong(at):
        idle = dict(set.intersection(*unused))
        given = {key[: key.index(name) + 1]: name for key, name, _ in _given(document, at, experiment.spec)}
        for stands, name in given.items():
            if (name,) in idle:
                document.problem(stands, idle[name,])


def _given_at(spec: ExperimentSpec, scale: Scale, case: dict[str, CaseValue], key: Key) -> Key:
    """Where ``spec`` gives the parameter of ``key`` at ``scale`` in ``case``: what decides first comes first."""
    if not key:
        return ("parameters",)
    name, *rest = key
    places: list[tuple[Key, ExperimentSpec | Override]] = [((), spec)]
    if scale in spec.scales:
        places.insert(0, (("scales", scale), spec.scales[scale]))
    for here, layer in places:
        if axis := layer.grid.get(str(name)):
            label = case[str(name)]
            part = str(label) if isinstance(axis, dict) else axis.index(label)
            return (*here, "grid", name, part, *rest)
    given = (here for here, layer in places if name in layer.parameters)
    return (*next(given, ()), "parameters", *key)


def _teller(document: Document, at: Key, spec: ExperimentSpec) -> Teller:
    def told(scale: Scale, case: dict[str, CaseValue], key: Key, message: str) -> str:
        return str(document.at((*at, *_given_at(spec, scale, case, key)), message))

    return told


def _check_claims(document: Document, specs: Iterable[ExperimentSpec]) -> None:
    by_name = {spec.name: spec for spec in specs}
    seen: set[str] = set()
    claims = dict(_sound_items(document, "claims", Claim))
    names = [claim.claim for claim in claims.values()]
    for index, claim in claims.items():
        at: Key = ("claims", index)
        if claim.claim in seen:
            document.problem((*at, "claim"), f"there is another claim {claim.claim!r}")
        seen.add(claim.claim)
        for other in claim.impossible.claims if claim.impossible else ():
            if other not in names:
                document.problem((*at, "impossible", "claims"), f"no claim {other!r}{did_you_mean(other, names)}")
        for selector in claim.needed:
            spec = by_name.get(selector.experiment)
            if spec is None:
                hint = did_you_mean(selector.experiment, by_name)
                document.problem(at, f"no experiment {selector.experiment!r} in this suite{hint}")
                continue
            for name, value in selector.case.items():
                axes = [here.grid[name] for here in map(spec.at, SCALES) if name in here.grid]
                if axes and not any(value in axis for axis in axes):
                    document.problem(at, f"no case of {spec.name} has {name} {value!r}")


def _check_fronts(document: Document, experiments: list[str]) -> None:
    for index, front in _sound_items(document, "fronts", FrontSpec):
        for number, method in enumerate(front.methods):
            if method.experiment not in experiments:
                hint = did_you_mean(method.experiment, experiments)
                at: Key = ("fronts", index, "methods", number, "experiment")
                document.problem(at, f"no experiment {method.experiment!r} in this suite{hint}")
