"""Models by name: torchvision's classifiers and ``module:callable``."""

import inspect
from typing import Any

import torch
from torch import nn

from nodes.errors import ModelError, one_line
from nodes.imports import load_callable
from nodes.model.chain import Chain
from nodes.seeds import derive
from nodes.spec.job import Granularity


def build_model(name: str, classes: int, input_shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """The network ``name`` (a torchvision classifier, or ``module:callable``) initialised from ``seed``.

    Raises ModelError for a name that is neither, and for whatever fails while the network is made.
    """
    torch.manual_seed(derive(seed))
    try:
        model = _own(name, classes) if ":" in name else _torchvision(name, classes, input_shape)
    except ModelError:
        raise
    except Exception as error:
        pictures = f"{classes} classes of pictures {tuple(input_shape)}"
        raise ModelError(f"{name} cannot be made for {pictures}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} made a {type(model).__name__}, not a torch.nn.Module")
    return model


def outline(name: str, classes: int, input_shape: tuple[int, int, int], granularity: Granularity = "op") -> "Chain":
    """The chain of ``name`` for its shapes alone: without memory for parameters where the model permits."""
    try:
        with torch.device("meta"):
            model = build_model(name, classes, input_shape)
    except ModelError:  # perhaps its constructor computes with the values of tensors
        model = build_model(name, classes, input_shape)
    return Chain(model, input_shape, granularity)


def _own(name: str, classes: int) -> Any:
    """What ``module:callable`` makes, told the number of classes if it takes ``classes``."""
    try:
        make = load_callable(name)
    except ValueError as error:
        raise ModelError(str(error)) from error
    return make(classes=classes) if "classes" in inspect.signature(make).parameters else make()


def _torchvision(name: str, classes: int, input_shape: tuple[int, int, int]) -> Any:
    from torchvision import models  # noqa: PLC0415  (seconds; only those who build such a model pay for it)

    if name not in models.list_models(module=models):
        raise ModelError(f"unknown model {name!r}: neither a torchvision classifier nor module:callable")
    settings: dict[str, Any] = {"num_classes": classes}
    if name.startswith("maxvit_"):
        settings["input_size"] = input_shape[1:]
    if name.startswith("vit_"):
        settings["image_size"] = input_shape[-1]
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    return models.get_model(name, weights=None, **settings)
