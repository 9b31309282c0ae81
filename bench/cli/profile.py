"""``bench profile``: the cost of each layer of a model, measured on this machine, ready for JSON."""

import inspect
from pathlib import Path
from typing import Any

from bench.suite.document import InputError
from bench.suite.parameter_types import check_model
from nodes.costs.profile import measure_profile
from nodes.imports import load_callable
from nodes.model.factory import CLASSES, build_model, import_path
from nodes.spec.job import Granularity, InputType, ModelSpec
from nodes.user_modules import user_modules

COLUMNS = ("layers", "boundary_bytes", "forward_s", "backward_s", "parameters")
PUBLISHED_CLASSES = 1000  # of torchvision's classifiers


def run_profile(
    model: str, input_shape: tuple[int, ...], granularity: Granularity = "op", dtype: InputType = "float32"
) -> dict[str, list[Any]]:
    """Profile ``model`` (its name, or a ModelSpec's text) for one sample, such as a picture (C, H, W), on the CPU.

    Returns L names, L+1 bytes at boundaries (0 the input, L the result; float32), L times forward and backward in
    seconds, L parameter counts. A user's model has the number of classes that its callable defaults to. Raises
    InputError, one line, for a model that cannot be made or run on such samples, whatever its code raises.
    """
    modules = user_modules([Path()])
    modules.forget_changed()
    with modules.in_use():
        try:
            check_model(model)
        except ValueError as error:
            raise InputError([f"MODEL: {error}"]) from None
        try:
            network = build_model(model, _classes(model), input_shape)
            profile = measure_profile(network, input_shape, granularity, dtype=dtype)
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise InputError([f"MODEL: {model}: {message.removeprefix(model).lstrip(': ')}"]) from error
    return {column: getattr(profile, column) for column in COLUMNS}


def as_lines(profile: dict[str, list[Any]]) -> list[str]:
    layers, boundary_bytes, *columns = (profile[column] for column in COLUMNS)
    lines = [f"{'layer':<40}{'forward':>12}{'backward':>12}{'bytes out':>12}{'parameters':>12}"]
    for name, sent, forward_s, backward_s, count in zip(layers, boundary_bytes[1:], *columns, strict=True):
        lines.append(f"{name:<40}{forward_s * 1e3:>9.3f} ms{backward_s * 1e3:>9.3f} ms{sent:>12}{count:>12}")
    return lines


def _classes(model: str) -> int:
    if path := import_path(ModelSpec.read(model).name):
        parameters = inspect.signature(load_callable(path)).parameters
        for parameter in (parameters[name] for name in CLASSES if name in parameters):
            if isinstance(parameter.default, int):
                return parameter.default
    return PUBLISHED_CLASSES
