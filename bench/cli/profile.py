"""``bench profile``: the cost of each layer of a model, measured on this machine, ready for JSON."""

import inspect
from typing import Any

from bench.suite.document import InputError
from nodes.costs.profile import measure_profile
from nodes.imports import load_callable
from nodes.model.factory import build_model, import_path
from nodes.spec.job import Granularity

COLUMNS = ("layers", "boundary_bytes", "forward_s", "backward_s", "parameters")
PUBLISHED_CLASSES = 1000  # of torchvision's classifiers


def run_profile(model: str, input_shape: tuple[int, int, int], granularity: Granularity = "op") -> dict[str, list[Any]]:
    """Profile ``model`` (a torchvision name or ``module:callable``) for one picture (C, H, W), on the CPU.

    Returns L names, L+1 bytes at boundaries (0 the input, L the result; float32), L times forward and backward in
    seconds, L parameter counts. A user's model has the number of classes that its callable defaults to. Raises
    InputError, one line, for a model that cannot be made or run on such pictures, whatever its code raises.
    """
    try:
        network = build_model(model, _classes(model), input_shape)
        profile = measure_profile(network, input_shape, granularity)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise InputError([f"MODEL: {model}: {message.removeprefix(model).lstrip(': ')}"]) from error
    return {column: getattr(profile, column) for column in COLUMNS}


def _classes(model: str) -> int:
    if path := import_path(model):
        parameter = inspect.signature(load_callable(path)).parameters.get("classes")
        if parameter and isinstance(parameter.default, int):
            return parameter.default
    return PUBLISHED_CLASSES
