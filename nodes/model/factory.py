"""Models by name: the project's own, torchvision's classifiers and ``module:callable``."""

import inspect
from typing import Any

import torch
from torch import nn

from nodes.errors import ModelError, one_line
from nodes.imports import load_callable
from nodes.model.chain import Chain
from nodes.seeds import derive
from nodes.spec.job import Granularity

CLASSES = ("classes", "num_classes", "n_classes", "num_labels")  # words for a constructor's number of classes
BUILT_IN = {  # short names of the networks of nodes.zoo; none is also torchvision's
    "small_cnn": "nodes.zoo.small_cnn:small_cnn",
    "sequence_labeller": "nodes.zoo.small_cnn:sequence_labeller",
    "recurrent_agent": "nodes.zoo.small_cnn:recurrent_agent",
    "thin_resnet18": "nodes.zoo.resnet:thin_resnet18",
    "thin_resnet50": "nodes.zoo.resnet:thin_resnet50",
    "thin_resnet101": "nodes.zoo.resnet:thin_resnet101",
    "cifar_resnet18": "nodes.zoo.resnet:cifar_resnet18",
    "full_vgg11": "nodes.zoo.vgg:vgg11",  # torchvision's vgg11 has no batch norm and no pooling before its classifier
    "half_vgg11": "nodes.zoo.vgg:half_vgg11",
    "small_vgg11": "nodes.zoo.vgg:small_vgg11",
    "tiny_vgg11": "nodes.zoo.vgg:tiny_vgg11",
    "faster_rcnn": "nodes.zoo.faster_rcnn:FasterRcnn",
}


def import_path(name: str) -> str | None:
    """The ``module:callable`` that the model ``name`` means; None for one of torchvision's."""
    return name if ":" in name else BUILT_IN.get(name)


def build_model(name: str, classes: int, input_shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Build a network from ``seed``, on the CPU and in training mode, for pictures of ``input_shape`` (C, H, W).

    ``name`` is of ``BUILT_IN``, a torchvision classifier, or ``module:callable``, called with ``classes`` by the first
    word of ``CLASSES`` that it takes, and by ``num_classes`` if it takes any keyword. Raises ModelError for an unknown
    name, or a failure in the network's constructor.
    """
    torch.manual_seed(derive(seed))
    try:
        path = import_path(name)
        model = _own(path, classes) if path else _torchvision(name, classes, input_shape)
    except ModelError:
        raise
    except Exception as error:
        pictures = f"{classes} classes of pictures {tuple(input_shape)}"
        raise ModelError(f"{name} cannot be built for {pictures}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def outline(name: str, classes: int, input_shape: tuple[int, int, int], granularity: Granularity = "op") -> "Chain":
    """The chain of the model ``name`` for its shapes alone, on the meta device where its constructor permits.

    Arguments and errors are those of ``build_model`` and ``Chain``.
    """
    try:
        with torch.device("meta"):
            model = build_model(name, classes, input_shape)
    except ModelError:  # its constructor may compute with the values of tensors
        model = build_model(name, classes, input_shape)
    return Chain(model, input_shape, granularity)


def _own(name: str, classes: int) -> Any:
    try:
        make = load_callable(name)
    except ValueError as error:
        raise ModelError(str(error)) from error
    taken = inspect.signature(make).parameters
    if word := next((word for word in CLASSES if word in taken), None):
        return make(**{word: classes})
    return make(num_classes=classes) if any(one.kind is one.VAR_KEYWORD for one in taken.values()) else make()


def _torchvision(name: str, classes: int, input_shape: tuple[int, int, int]) -> Any:
    from torchvision import models  # noqa: PLC0415  (takes seconds to import)

    if name not in models.list_models(module=models):
        raise ModelError(f"unknown model {name!r}: neither {', '.join(BUILT_IN)} nor torchvision's nor module:callable")
    settings: dict[str, Any] = {"num_classes": classes}
    if name.startswith("maxvit_"):
        settings["input_size"] = input_shape[1:]
    if name.startswith("vit_"):
        settings["image_size"] = input_shape[-1]
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    return models.get_model(name, weights=None, **settings)
