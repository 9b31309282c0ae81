"""Types for the fields of an experiment's parameters: bounded numbers, and names checked when a suite is read.

``model: ModelName`` makes an unknown model an error of the suite's line. torch is imported only where a model is
named, ``nodes.data.datasets`` only where a data set is.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bench.suite.strict_yaml import DecHook
from nodes.files import cached_reading
from nodes.imports import did_you_mean, load_callable, registered_names
from nodes.spec.job import ModelSpec, StageSpec
from nodes.user_modules import cached_by_modules, keep_from_packages

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PositiveShare = Annotated[float, msgspec.Meta(gt=0, le=1)]
Duration = Annotated[float, msgspec.Meta(gt=0, le=36_000)]  # seconds of a network that is generated step by step


class ModelName(str):
    """A model, checked: its name, or in a suite ``{name: ..., options: {...}}``, which becomes a ModelSpec's text."""


class WorkloadName(str):
    """A workload that ``nodes.costs.workload`` keeps, or the path of another."""


class DatasetName(str):
    """A data set whose files are there, or "none"; ``auto(X)`` and ``optional(X)`` are resolved."""


StageChoice = str | StageSpec  # a short name or ``module:callable``; with options ``{name: ..., options: {...}}``
Stages = StageChoice | list[StageChoice]  # the same at every link, or one for each link from the UE on


def stage_specs(stages: Stages, links: int) -> tuple[StageSpec, ...]:
    """The stage of each of ``links`` links, or cuts. Raises ValueError if ``stages`` lists more or fewer."""
    listed = stages if isinstance(stages, list) else [stages] * links
    if len(listed) != links:
        raise ValueError(f"expected {links} stages, one a link, got {len(listed)}")
    return tuple(StageSpec(name=stage) if isinstance(stage, str) else stage for stage in listed)


def decoder(data_dir: Path | None) -> DecHook:
    """The hook that checks and makes the types above; data sets are looked for in ``data_dir``."""

    def decode(kind: type, value: Any) -> Any:
        if kind not in (ModelName, DatasetName, WorkloadName):
            raise ValueError(f"a suite cannot hold a {kind.__name__}")
        if kind is ModelName and isinstance(value, dict):
            value = str(msgspec.convert(value, ModelSpec))
        if not isinstance(value, str):
            raise ValueError(f"expected a name, got {value!r:.80}")
        if kind is DatasetName:
            return DatasetName(available_dataset(value, data_dir))
        if kind is WorkloadName:
            check_workload(value)
            return WorkloadName(value)
        check_model(value)
        return ModelName(value)

    return decode


def available_dataset(name: str, data_dir: Path | None) -> str:
    """The data set that ``name`` stands for. Raises ValueError if it is unknown or its files are missing."""
    if name in ("none", "tokens"):
        return name
    from nodes.data.datasets import resolve_dataset  # noqa: PLC0415

    resolved = resolve_dataset(name, data_dir)
    if problem := dataset_problem(resolved, data_dir):
        raise ValueError(problem)
    return resolved


@cached_reading
def dataset_problem(name: str, data_dir: Path | None) -> str | None:
    """Why a resolved data set cannot be used; cached, since its picture files take seconds."""
    from nodes.data.datasets import check_dataset  # noqa: PLC0415

    try:
        check_dataset(name, data_dir)
    except ValueError as error:
        return str(error)
    return None


@cached_by_modules()
def check_model(model: str) -> None:
    """Raise ValueError unless ``model``, a ModelSpec's text, names a model that takes its options."""
    spec = ModelSpec.read(model)
    if ":" in spec.name:
        _check_options(spec, load_callable(spec.name))
        return
    from nodes.model.factory import BUILT_IN, import_path  # noqa: PLC0415  (imports torch)

    if path := import_path(spec.name):
        _check_options(spec, load_callable(path))
        return
    from torchvision import models  # noqa: PLC0415  (takes seconds to import)

    known = models.list_models(module=models)
    if spec.name not in known:
        ours = [*BUILT_IN, *registered_names("models")]
        there_are = f"there are {', '.join(ours)}, torchvision's and module:callable"
        raise ValueError(f"no model {spec.name!r}{did_you_mean(spec.name, [*ours, *known])}; {there_are}")
    _check_options(spec, models.get_model_builder(spec.name))


def _check_options(spec: ModelSpec, make: Callable[..., Any]) -> None:
    parameters = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]
    for name in spec.options.keys() - set(names):
        takes = f"it takes {', '.join(names) or 'none'}"
        raise ValueError(f"model {spec.name} has no option {name!r}{did_you_mean(name, names)}; {takes}")


@cached_reading
def check_workload(name: str) -> None:
    from nodes.costs.workload import load_workload, packaged_workloads  # noqa: PLC0415

    try:
        load_workload(name)
    except ValueError as error:
        kept = packaged_workloads()
        raise ValueError(f"{error}{did_you_mean(name, kept)}; kept are {', '.join(kept)}") from None


def check_stage_name(name: str) -> None:
    if ":" in name:
        load_callable(name)
        return
    from nodes.stages.builtin import BUILT_IN, stage_path  # noqa: PLC0415  (imports torch)

    path = stage_path(name)
    if name not in BUILT_IN:
        load_callable(path)


def make_importable(folder: Path) -> None:
    """Let ``module:callable`` find modules in ``folder``; last, so that none hides an installed package."""
    path = str(folder.resolve())
    keep_from_packages(path)
    if path not in sys.path:
        sys.path.append(path)
