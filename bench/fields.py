"""What may a suite name where a model, a data set, a stage or a function is asked for? Checked when read.

The types are for the fields of an experiment's parameters: ``model: ModelName`` makes an unknown model an
error of the suite's line. torch is imported only where a model is named,
``nodes.data`` only where a data set is.
"""

import functools
import importlib
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.strict_yaml import DecHook, did_you_mean

BUILT_IN_STAGES = ("identity", "float16", "int8")


class ModelName(str):
    """A torchvision classifier's name, or ``module:callable``."""


class DatasetName(str):
    """A data set of ``nodes.data`` whose files are there, or "none"; ``auto(X)`` is resolved."""


class StageName(str):
    """A built-in stage, or ``module:callable``."""


def decoder(data_dir: Path | None) -> DecHook:
    """The hook that checks and makes the types above; data sets are looked for in ``data_dir``."""

    def decode(kind: type, value: Any) -> Any:
        if kind not in (ModelName, DatasetName, StageName):
            raise ValueError(f"a suite cannot hold a {kind.__name__}")
        if not isinstance(value, str):
            raise ValueError(f"expected a name, got {value!r:.80}")
        if kind is DatasetName:
            return DatasetName(available_dataset(value, data_dir))
        check_model(value) if kind is ModelName else check_stage(value)
        return kind(value)

    return decode


def available_dataset(name: str, data_dir: Path | None) -> str:
    """The data set that ``name`` stands for. Raises ValueError if it is unknown or its files are missing."""
    if name == "none":
        return name
    from nodes import data  # noqa: PLC0415

    resolved = data.resolve(name, data_dir)
    data.check(resolved, data_dir)
    return resolved


@functools.cache
def check_model(name: str) -> None:
    """Raise ValueError if there is no model ``name``."""
    if ":" in name:
        named(name)
        return
    from torchvision import models  # noqa: PLC0415

    known = models.list_models(module=models)
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"no model {name!r} in torchvision{hint}; others are module:callable")


def check_stage(name: str) -> None:
    """Raise ValueError if there is no stage ``name``."""
    if ":" in name:
        named(name)
    elif name not in BUILT_IN_STAGES:
        known = f"there are {', '.join(BUILT_IN_STAGES)} and module:callable"
        raise ValueError(f"no stage {name!r}{did_you_mean(name, BUILT_IN_STAGES)}; {known}")


def named(name: str) -> Callable[..., Any]:
    """The function or class that ``module:callable`` names. Raises ValueError whatever its import does."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from None
    try:
        found: Callable[..., Any] = operator.attrgetter(attribute)(module)
    except AttributeError:
        hint = did_you_mean(attribute, vars(module))
        raise ValueError(f"{module_name} has no {attribute!r}{hint}") from None
    if not callable(found):
        raise ValueError(f"{name} is not callable")
    return found


def make_importable(folder: Path) -> None:
    """Let ``module:callable`` find modules in ``folder``; last, so that none hides an installed package."""
    path = str(folder.resolve())
    if path not in sys.path:
        sys.path.append(path)
