"""Stages of plain encodings (identity, float16, int8), and stages by name."""

from typing import Any

import torch

from nodes.errors import ModelError, one_line
from nodes.imports import did_you_mean, load_callable, registered, registered_names
from nodes.model.boundary import Tensors
from nodes.spec.job import StageSpec
from nodes.stages.base import Stage
from nodes.user_code import contained


class Float16(Stage):
    """Floating-point values cross as float16, clamped to its range."""

    def encode(self, codes: Tensors) -> Tensors:
        largest = torch.finfo(torch.float16).max
        floating = {name: code for name, code in codes.items() if code.is_floating_point()}
        return codes | {name: code.clamp(-largest, largest).half() for name, code in floating.items()}

    def decode(self, wire: Tensors) -> Tensors:
        return {name: code.to(self.shapes[name].dtype) for name, code in wire.items()}


RANGE = "/range"


class Int8(Stage):
    """Floating-point values cross as one of 256 even levels between the tensor's minimum and maximum."""

    def encode(self, codes: Tensors) -> Tensors:
        wire: Tensors = {}
        for name, code in codes.items():
            if code.is_floating_point() and code.numel():
                least, largest = torch.aminmax(code.float())
                step = ((largest - least) / 255).clamp_min(torch.finfo(torch.float32).tiny)
                wire[name] = ((code - least) / step).round().to(torch.uint8)
                wire[name + RANGE] = torch.stack([least, step])
            else:
                wire[name] = code
        return wire

    def decode(self, wire: Tensors) -> Tensors:
        return {name: self._decoded(name, wire) for name in wire if not name.endswith(RANGE)}

    def _decoded(self, name: str, wire: Tensors) -> torch.Tensor:
        if name + RANGE not in wire:
            return wire[name]
        least, step = wire[name + RANGE]
        decoded: torch.Tensor = least + wire[name] * step
        return decoded.to(self.shapes[name].dtype)


BUILT_IN = {  # short names; packages may register more, and any other stage is named module:callable
    "identity": "nodes.stages.base:Stage",
    "float16": "nodes.stages.builtin:Float16",
    "int8": "nodes.stages.builtin:Int8",
    "noise": "nodes.stages.noise:Noise",
    "topk": "nodes.stages.compressors:TopK",
    "c3sl": "nodes.stages.compressors:CircularConvolution",
    "pruned": "nodes.stages.deprune.stage:Pruned",
    "picture": "nodes.stages.picture_codec:PictureCodec",
    "dynsplit": "nodes.stages.dynsplit.stage:DynSplit",
}


def stage_path(name: str) -> str:
    """The ``module:callable`` of the stage ``name``, built-in, registered or of that form. Raises ValueError."""
    if ":" in name:
        return name
    if path := BUILT_IN.get(name) or registered("stages", name):
        return path
    known = [*BUILT_IN, *registered_names("stages")]
    raise ValueError(f"no stage {name!r}{did_you_mean(name, known)}; there are {', '.join(known)} and module:callable")


def build_stage(spec: StageSpec, shapes: dict[str, Any]) -> Stage:
    """Build the stage of a cut.

    Args:
        spec: Its name, built-in, registered or ``module:callable``, and its options.
        shapes: What crosses the boundary for one picture, by name; scalars are left out.

    Raises:
        ModelError: An unknown name, a failing constructor, or parameters outside ``sender`` and ``receiver``.
    """
    try:
        path = stage_path(spec.name)
    except ValueError as error:
        raise ModelError(str(error)) from None
    tensors = {name: value for name, value in shapes.items() if isinstance(value, torch.Tensor)}
    try:
        with contained():
            stage = load_callable(path)(tensors, **spec.options)
    except Exception as error:
        raise ModelError(f"stage {spec.name} cannot be built: {one_line(error)}") from error
    if not isinstance(stage, Stage):
        raise ModelError(f"stage {spec.name} returned a {type(stage).__name__}, expected a nodes.stages.Stage")
    halves = [set(half.parameters()) for half in (stage.sender, stage.receiver)]
    if set.union(*halves) != set(stage.parameters()) or set.intersection(*halves):
        raise ModelError(
            f"stage {spec.name}: each parameter must belong to either sender or receiver; "
            "make its module an attribute of self.sender or self.receiver"
        )
    return stage
