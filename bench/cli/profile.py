"""What does ``bench profile`` answer? What each layer of a network costs, measured here; ready for JSON."""

import inspect
from typing import Any

from bench.suite.document import InputError
from nodes.costs.profile import measure_profile
from nodes.imports import load_callable
from nodes.model.factory import build_model
from nodes.spec.job import Granularity

COLUMNS = ("layers", "boundary_bytes", "forward_s", "backward_s", "parameters")
PUBLISHED_CLASSES = 1000  # of torchvision's classifiers


def run_profile(model: str, input_shape: tuple[int, int, int], granularity: Granularity = "op") -> dict[str, list[Any]]:
    """The profile of ``model`` (a torchvision name or ``module:callable``) for one picture (C, H, W), on CPU.

    L names, L+1 bytes (0 the input, L the result; float32), seconds forward and backward, parameter counts.
    A model of one's own has the classes that its callable gives it. Raises InputError, one line, for a model
    that cannot be made or not be run on such pictures, whatever its code raises.
    """
    try:
        network = build_model(model, _classes(model), input_shape)
        profile = measure_profile(network, input_shape, granularity)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise InputError([f"MODEL: {model}: {message.removeprefix(model).lstrip(': ')}"]) from error
    return {column: getattr(profile, column) for column in COLUMNS}


def _classes(model: str) -> int:
    """How many classes ``model`` tells apart if nobody asks for another number."""
    if ":" in model:
        parameter = inspect.signature(load_callable(model)).parameters.get("classes")
        if parameter and isinstance(parameter.default, int):
            return parameter.default
    return PUBLISHED_CLASSES
