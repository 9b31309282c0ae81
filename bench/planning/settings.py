"""Parameters and seeds that the command line changes: ``--set experiment.key=value`` and ``--seeds N``."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.suite.document import Document, InputError, Key, key_text, parse
from bench.suite.schema import Axis, Experiment, ExperimentSpec, Override, Suite, Teller, points
from bench.suite.strict_yaml import convert
from nodes.imports import did_you_mean
from reports.record import CaseValue, Scale

FORM = "expected experiment.key=value, such as accuracy.train_samples=512"


class Setting(NamedTuple):
    """One ``--set``: its text, the experiment and the parameter that it names, and the value."""

    text: str
    experiment: str  # suite/experiment
    key: tuple[str, ...]
    value: Any

    @property
    def shown(self) -> str:
        return f"{'.'.join(self.key)}={msgspec.json.encode(self.value, order='sorted').decode()}"


def with_settings(
    suites: list[Suite], texts: Sequence[str], scale: Scale, data_dir: Path | None, checked: bool = False
) -> list[Suite]:
    """``suites`` with the parameters that ``texts`` set at ``scale``. Raises InputError with every error in them.

    A parameter that is swept keeps its place in the case, with the one value. What was ``checked`` before is not
    checked against the other parameters again.
    """
    problems: list[str] = []
    settings = _read(texts, [one for suite in suites for one in suite.experiments], problems)

    def changed(experiment: Experiment) -> Experiment:
        own = [setting for setting in settings if setting.experiment == experiment.name]
        if not own:
            return experiment
        before = len(problems)
        found = _changed(experiment, own, scale, problems)
        if not checked and len(problems) == before:
            problems.extend(_misfits(found, own, scale, data_dir))
        return found

    found = [_with_experiments(suite, map(changed, suite.experiments)) for suite in suites]
    if problems:
        raise InputError(dict.fromkeys(problems))
    return found


def with_seeds(suites: list[Suite], seeds: int, scale: Scale) -> list[Suite]:
    """``suites`` of which each case has as many ``seeds`` at ``scale``."""

    def changed(experiment: Experiment) -> Experiment:
        return dataclasses.replace(experiment, spec=_at_scale(experiment.spec, scale, seeds=seeds))

    return [_with_experiments(suite, map(changed, suite.experiments)) for suite in suites]


def _with_experiments(suite: Suite, experiments: Iterable[Experiment]) -> Suite:
    listed = list(experiments)
    file = msgspec.structs.replace(suite.file, experiments=[one.spec for one in listed])
    return dataclasses.replace(suite, file=file, experiments=listed)


def _at_scale(spec: ExperimentSpec, scale: Scale, **fields: Any) -> ExperimentSpec:
    other = msgspec.structs.replace(spec.scales.get(scale, Override()), **fields)
    return msgspec.structs.replace(spec, scales={**spec.scales, scale: other})


def _read(texts: Sequence[str], known: Sequence[Experiment], problems: list[str]) -> list[Setting]:
    found: dict[tuple[str, tuple[str, ...]], Setting] = {}
    for text in texts:
        try:
            setting = _setting(text, known)
            if setting[1:3] in found:
                raise ValueError(f"{'.'.join(setting.key)} is set twice")
            found[setting.experiment, setting.key] = setting
        except ValueError as error:
            problems.append(f"--set {text}: {error}")
    return list(found.values())


def _setting(text: str, known: Sequence[Experiment]) -> Setting:
    target, equals, value = text.partition("=")
    if not equals:
        raise ValueError(FORM)
    matching = [
        (name, one)
        for one in known
        for name in (one.name, one.spec.name)
        if f"{target.strip()}.".startswith(f"{name}.")
    ]
    longest = max((len(name) for name, _ in matching), default=0)
    experiments = {one.name: name for name, one in matching if len(name) == longest}
    if not experiments:
        asked = target.partition(".")[0].strip()
        names = [one.name if "/" in asked else one.spec.name for one in known]
        raise ValueError(f"no experiment {asked!r}{did_you_mean(asked, names)}; {FORM}")
    if len(experiments) > 1:
        raise ValueError(f"several suites have this experiment; give one of {', '.join(experiments)}")
    ((experiment, name),) = experiments.items()
    key = tuple(target.strip()[len(name) + 1 :].split("."))
    if not all(key):
        raise ValueError(FORM)
    document = parse(Path("--set"), value.encode())
    if document.problems:
        raise ValueError("; ".join(f"the value {problem.message}" for problem in document.problems))
    return Setting(text, experiment, key, document.value)


def _changed(experiment: Experiment, settings: list[Setting], scale: Scale, problems: list[str]) -> Experiment:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(experiment.parameters_type)}
    spec = experiment.spec
    for setting in settings:
        name, *rest = setting.key
        if name not in fields:
            takes = did_you_mean(name, fields) or f"; it takes {', '.join(fields) or 'none'}"
            problems.append(f"--set {setting.text}: no parameter {name!r} of {spec.run}{takes}")
            continue
        here = spec.at(scale)
        try:
            values = list(_values(here, name))
            axis = {label: _put(value, rest, setting.value) for label, value in values}
        except ValueError as error:
            problems.append(f"--set {setting.text}: {error}")
            continue
        document = Document(Path("--set"))
        with experiment.modules.in_use():
            for value in axis.values():
                convert(document, fields[name], experiment.dec_hook, value=value, at=(name,))
        problems += [f"--set {setting.text}: {key_text(one.key)}: {one.message}" for one in document.problems]
        other = spec.scales.get(scale, Override())
        if name in here.grid:
            grid = _one(setting.value) if not rest else axis
            spec = _at_scale(spec, scale, grid=other.grid | {name: grid})
        else:
            (value,) = axis.values()
            spec = _at_scale(spec, scale, parameters=other.parameters | {name: value})
    shown = ", ".join(sorted(setting.shown for setting in settings))
    return dataclasses.replace(experiment, spec=spec, set=shown, told=_teller(experiment.told, settings))


def _values(here: Override, name: str) -> Iterator[tuple[str, Any]]:
    """The values that parameter ``name`` has, by label; a value that the suite leaves out is None."""
    axis = here.grid.get(name, {"": here.parameters.get(name)})
    yield from axis.items() if isinstance(axis, dict) else ((str(value), value) for value in axis)


def _put(whole: Any, key: Sequence[str], value: Any) -> Any:
    """``whole``, plain values, with ``value`` at ``key``. Raises ValueError where that has no such part."""
    if not key:
        return value
    name, *rest = key
    if whole is None or isinstance(whole, dict):
        known = whole or {}
        return {**known, name: _put(known.get(name), rest, value)}
    if isinstance(whole, list):
        if not name.isdecimal() or int(name) >= len(whole):
            raise ValueError(f"expected an index below {len(whole)}, got {name!r}")
        return [_put(item, rest, value) if at == int(name) else item for at, item in enumerate(whole)]
    raise ValueError(f"{whole!r:.80} has no part {name!r}")


def _one(value: Any) -> Axis:
    if isinstance(value, CaseValue):
        return [value]
    return {msgspec.json.encode(value).decode(): value}


def _misfits(experiment: Experiment, settings: list[Setting], scale: Scale, data_dir: Path | None) -> Iterator[str]:
    """What is wrong with the parameters together, and those set that no case uses."""
    here = experiment.spec.at(scale)
    unused: list[set[tuple[Key, str]]] = []  # of each case
    for case, point in points(here.grid):
        with experiment.modules.in_use():
            found = experiment.problems(here.parameters | point, data_dir)
        unused.append({(one.key, one.message) for one in found if one.unused})
        for one in found:
            if not one.unused and not one.note:
                yield experiment.told(scale, case, one.key, one.message)
    names = {setting.key[0] for setting in settings}
    for key, message in set.intersection(*unused) if unused else ():
        if key[:1] and key[0] in names:
            yield experiment.told(scale, {}, key, message)


def _teller(told: Teller, settings: list[Setting]) -> Teller:
    """``told``, but for parameters that are set, whose messages name the option."""

    def tell(scale: Scale, case: dict[str, CaseValue], key: Key, message: str) -> str:
        texts = [one.text for one in settings if not key or one.key[0] == key[0]]
        return f"--set {', '.join(texts)}: {message}" if texts else told(scale, case, key, message)

    return tell
