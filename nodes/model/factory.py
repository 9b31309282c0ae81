"""Models by name: the project's own, torchvision's classifiers and ``module:callable``."""

import inspect
from typing import Any

import torch
from torch import nn

from nodes.errors import ModelError, one_line
from nodes.imports import load_callable, registered
from nodes.model.chain import Chain
from nodes.seeds import derive
from nodes.spec.job import Granularity, InputType, ModelSpec
from nodes.user_code import contained

CLASSES = ("classes", "num_classes", "n_classes", "num_labels")  # words for a constructor's number of classes
BUILT_IN = {  # short names of the networks of nodes.zoo; none is also torchvision's
    "small_cnn": "nodes.zoo.small_cnn:small_cnn",
    "sequence_labeller": "nodes.zoo.small_cnn:sequence_labeller",
    "recurrent_agent": "nodes.zoo.small_cnn:recurrent_agent",
    "thin_resnet18": "nodes.zoo.resnet:thin_resnet18",
    "thin_resnet50": "nodes.zoo.resnet:thin_resnet50",
    "thin_resnet101": "nodes.zoo.resnet:thin_resnet101",
    "group_resnet18": "nodes.zoo.resnet:group_resnet18",
    "folded_resnet18": "nodes.zoo.resnet:folded_resnet18",  # torchvision's resnet18, faster for small pictures
    "cifar_resnet18": "nodes.zoo.resnet:cifar_resnet18",
    "full_vgg11": "nodes.zoo.vgg:vgg11",  # torchvision's vgg11 has no batch norm and no pooling before its classifier
    "folded_vgg11": "nodes.zoo.vgg:folded_vgg11",  # full_vgg11 for 32x32, with 28 of its 129 million parameters
    "half_vgg11": "nodes.zoo.vgg:half_vgg11",
    "small_vgg11": "nodes.zoo.vgg:small_vgg11",
    "tiny_vgg11": "nodes.zoo.vgg:tiny_vgg11",
    "faster_rcnn": "nodes.zoo.faster_rcnn:FasterRcnn",
}


def import_path(name: str) -> str | None:
    """The ``module:callable`` that the model ``name`` means; None for one of torchvision's. Raises ValueError."""
    return name if ":" in name else BUILT_IN.get(name) or registered("models", name)


def build_model(model: str | ModelSpec, classes: int, input_shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Build a network from ``seed``, on the CPU and in training mode, for samples of ``input_shape``.

    Args:
        model: A name of ``BUILT_IN``, a torchvision classifier, or ``module:callable``; its options are keyword
            arguments of the constructor.
        classes: Given to the constructor by the first word of ``CLASSES`` that it takes, or by
            ``num_classes`` if it takes any keyword, unless an option says it.
        input_shape: (C, H, W) of a picture, or (T,) of a sequence of tokens.
        seed: Seed of the parameters.

    Raises:
        ModelError: An unknown name, or a failure in the network's constructor.
    """
    torch.manual_seed(derive(seed))
    try:
        spec = ModelSpec.read(model)
        path = import_path(spec.name)
        with contained():
            built = _own(path, spec, classes) if path else _torchvision(spec, classes, input_shape)
    except ModelError:
        raise
    except Exception as error:
        samples = f"{'pictures' if len(input_shape) == 3 else 'inputs'} {tuple(input_shape)}"
        raise ModelError(f"{model} cannot be built for {classes} classes of {samples}: {one_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{model} returned a {type(built).__name__}, expected a torch.nn.Module")
    return built


def outline(
    model: str | ModelSpec,
    classes: int,
    input_shape: tuple[int, ...],
    granularity: Granularity = "op",
    dtype: InputType = "float32",
) -> Chain:
    """The chain of ``model`` for its shapes alone, on the meta device where its constructor permits.

    Arguments and errors are those of ``build_model`` and ``Chain``.
    """
    try:
        with torch.device("meta"):
            built = build_model(model, classes, input_shape)
    except ModelError:  # its constructor may compute with the values of tensors
        built = build_model(model, classes, input_shape)
    return Chain(built, input_shape, granularity, dtype)


def _own(path: str, spec: ModelSpec, classes: int) -> Any:
    try:
        make = load_callable(path)
    except ValueError as error:
        raise ModelError(str(error)) from error
    taken = inspect.signature(make).parameters.values()
    named = next((name for name in CLASSES if name in {one.name for one in taken}), None)
    if spec.options.keys() & CLASSES:
        named = None
    elif named is None and any(one.kind is one.VAR_KEYWORD for one in taken):
        try:  # such as timm's create_model, which hands on what it does not know
            return make(**spec.options, num_classes=classes)
        except TypeError as error:
            if "num_classes" not in str(error):
                raise
    return make(**spec.options, **({named: classes} if named else {}))


def _torchvision(spec: ModelSpec, classes: int, input_shape: tuple[int, ...]) -> Any:
    from torchvision import models  # noqa: PLC0415  (takes seconds to import)

    name = spec.name
    if name not in models.list_models(module=models):
        raise ModelError(f"unknown model {name!r}: neither {', '.join(BUILT_IN)} nor torchvision's nor module:callable")
    settings: dict[str, Any] = {"num_classes": classes}
    if name.startswith("maxvit_"):
        settings["input_size"] = input_shape[1:]
    if name.startswith("vit_"):
        settings["image_size"] = input_shape[-1]
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    return models.get_model(name, **{"weights": None} | settings | spec.options)
