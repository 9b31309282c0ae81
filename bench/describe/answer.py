"""``bench describe``: what an experiment takes and measures; stages, models and schemes with their options."""

import importlib
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from bench.describe.metrics import SOME, metrics_of
from bench.describe.parameters import docs_of, parameters_of, parameters_of_callable
from bench.execution.loader import resolve_run
from bench.experiments import MODULES, modes_of
from bench.suite.document import InputError
from bench.suite.experiment import Context, Measurement
from nodes.imports import Group, did_you_mean, load_callable, registered, registered_names

Found = dict[str, Any]
WIDTH = 100  # of lines of text


class Kind(NamedTuple):
    """A kind of component: those of the project by short name, and arguments that are not options of a suite."""

    names: Callable[[], dict[str, str | Callable[..., Any]]]
    given: tuple[str, ...]


def _stages() -> dict[str, Any]:
    from nodes.stages.builtin import BUILT_IN  # noqa: PLC0415  (imports torch)

    return dict(BUILT_IN) | _registered("stages")


def _models() -> dict[str, Any]:
    from nodes.model.factory import BUILT_IN  # noqa: PLC0415  (imports torch)

    return dict(BUILT_IN) | _registered("models")


def _schemes() -> dict[str, Any]:
    from nodes.federated.schemes import SCHEMES  # noqa: PLC0415  (imports torch)

    return dict(SCHEMES) | _registered("schemes")


def _registered(group: Group) -> dict[str, Any]:
    found = {}
    for name in registered_names(group):
        with suppress(ValueError):  # of several packages; told where the name is used
            found[name] = registered(group, name)
    return found


KINDS = {
    "stage": Kind(_stages, ("shapes",)),
    "model": Kind(_models, ("classes", "num_classes")),
    "scheme": Kind(_schemes, ()),
}


def everything() -> Found:
    """One line about every experiment, stage, model and scheme, by the name that ``describe`` takes."""
    found: Found = {"experiments": {run: _one_line(function) for run, function in experiments().items()}}
    for kind, (names, _) in KINDS.items():
        found[f"{kind}s"] = {f"{kind}:{name}": _about(one) for name, one in names().items()}
    return found


def experiments() -> dict[str, Callable[..., Any]]:
    """The experiments of the project, and those that packages register, by the name that suites use."""
    found: dict[str, Callable[..., Any]] = {}
    for file, path in sorted(MODULES.items()):
        module = importlib.import_module(f"bench.experiments.{path}")
        for name, one in vars(module).items():
            if inspect.isfunction(one) and one.__module__ == module.__name__ and _is_experiment(one):
                found[f"{file}.{name}"] = one
    for name in registered_names("experiments"):
        with suppress(ValueError):  # of a package that is broken; told where the name is used
            found[name] = resolve_run(name)[0]
    return found


def _is_experiment(function: Callable[..., Any]) -> bool:
    names = list(inspect.signature(function).parameters)
    hints = typing.get_type_hints(function)
    kinds = [hints.get(name) for name in names]
    return kinds[1:] == [Context] and Measurement in typing.get_args(hints.get("return"))


def describe(name: str) -> Found:
    """What there is to say of ``name``, an experiment or ``kind:name``. Raises InputError."""
    kind, _, rest = name.partition(":")
    try:
        return _component(kind, rest) if kind in KINDS and rest else _experiment(name)
    except ValueError as error:
        hint = (
            f"; a stage is stage:{name}, a model model:{name}, a scheme scheme:{name}"
            if rest and kind not in KINDS
            else ""
        )
        raise InputError([f"describe {name}: {error}{hint}"]) from None


def _experiment(run: str) -> Found:
    if ":" not in run and "." not in run and run not in registered_names("experiments"):
        raise ValueError(f"no experiment{did_you_mean(run, experiments())}; `bench describe` lists all")
    function, kind = resolve_run(run)
    return {
        "experiment": run,
        "about": inspect.cleandoc(function.__doc__ or ""),
        "modes": list(modes_of(run) or ("live", "in-process", "virtual")),
        "notes": docs_of(kind),
        "parameters": [one.plain for one in parameters_of(kind)],
        "metrics": metrics_of(function),
    }


def _component(kind: str, name: str) -> Found:
    names, given = KINDS[kind]
    known = names()
    if name not in known and ":" not in name:
        raise ValueError(f"no {kind} {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    make = _made(known.get(name, name))
    if kind == "scheme" and isinstance(make, type) and issubclass(make, msgspec.Struct):
        parameters = list(parameters_of(make))
    else:
        parameters = list(parameters_of_callable(make, ("self", *given)))
    return {
        kind: name,
        "about": inspect.cleandoc(make.__doc__ or ""),
        "parameters": [one.plain for one in parameters],
    }


def _made(one: str | Callable[..., Any]) -> Callable[..., Any]:
    return load_callable(one) if isinstance(one, str) else one


def _about(one: str | Callable[..., Any]) -> str:
    try:
        return _one_line(_made(one))
    except ValueError as error:  # of a package that is broken
        return str(error)


def _one_line(one: Callable[..., Any]) -> str:
    return (inspect.cleandoc(one.__doc__ or "").splitlines() or [""])[0]


def list_lines(found: Found) -> Iterator[str]:
    for title, names in found.items():
        width = max(map(len, names))
        yield from (f"{title}:", *(f"  {name:<{width}}  {about}" for name, about in names.items()), "")
    yield "bench describe NAME says more of one of them, such as pipeline.chain or stage:topk."


def as_lines(found: Found) -> Iterator[str]:
    name = next(iter(found.values()))
    yield f"{name}: {found['about']}" if found["about"] else f"{name}"
    if "modes" in found:
        yield from ("", f"modes: {', '.join(found['modes'])}")
    for note in found.get("notes", ()):
        yield from ("", note.replace("``", "`"))
    yield from ("", "parameters:" if "modes" in found else "options:")
    yield from _rows(found["parameters"])
    if "metrics" in found:
        metrics = {key: unit for key, unit in found["metrics"].items() if key != SOME}
        width = max(map(len, metrics), default=0)
        yield from ("", "metrics, with their units:")
        yield from (f"  {key:<{width}}  {unit or '1'}" for key, unit in metrics.items())
        if SOME in found["metrics"]:
            yield "  and others whose names are made while it runs"


def _rows(parameters: list[Found]) -> Iterator[str]:
    for one in parameters:
        default = "required" if one["required"] else f"default {msgspec.json.encode(one['default']).decode()}"
        unit = f" [{one['unit']}]" if one["unit"] else ""
        yield f"  {one['key']}{unit}: {default if len(default) < WIDTH else default[: WIDTH - 2] + ' …'}"
        words = f"{one['type']}; {one['comment']}" if one["comment"] else one["type"]
        yield from textwrap.wrap(words, WIDTH, initial_indent="      ", subsequent_indent="      ")
    if not parameters:
        yield "  none"
