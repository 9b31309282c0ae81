"""What stands at a cut? A stage: a trainable sender part, an encoding, a trainable receiver part.

At the sender ``compress`` turns the boundary's tensors into codes, differentiably, and ``encode`` the codes
into wire tensors. At the receiver ``decode`` turns these into codes again and ``restore`` the codes into the
boundary's tensors, differentiably. A gradient returns for each code that requires grad at the sender, by its
name, straight through the encoding; for its way back it may be encoded too. Both sides build the stage from the
same seed; each trains its own part.
"""

from typing import Any

import torch
from torch import nn

from nodes.graph import ModelError, said
from nodes.job import StageSpec
from nodes.messages import Tensors
from nodes.named import named


class Stage(nn.Module):
    """The identity, and the base of all others.

    ``shapes`` are the boundary's tensors for one picture, without data. All parameters stand in ``sender`` or
    in ``receiver``; what is not trained needs neither.
    """

    def __init__(self, shapes: Tensors) -> None:
        super().__init__()
        self.shapes = shapes
        self.sender = nn.Module()
        self.receiver = nn.Module()
        self.told: dict[str, float] = {}  # of the last ``compress`` in training: sums over its samples, to be reported

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Be told, on both sides, that epoch ``epoch`` (from 0) of ``epochs`` begins; at ``epochs`` all are over."""

    def trained(self, metrics: dict[str, float]) -> None:
        """Be told, at the sender, what came of a microbatch in training: "count", "correct", its part of the "loss"."""

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        """Codes, and the stage's own loss term or None: a scalar, trained with the batch's loss, not reported in it."""
        return values, None

    def encode(self, codes: Tensors) -> Tensors:
        """Wire tensors of ``codes``; no gradient flows here."""
        return codes

    def decode(self, wire: Tensors) -> Tensors:
        """The codes, as exactly as the encoding permits; no gradient flows here."""
        return wire

    def restore(self, codes: Tensors) -> Tensors:
        """The boundary's tensors, with the names that ``compress`` was given."""
        return codes

    def encode_gradients(self, gradients: Tensors) -> Tensors:
        """At the receiver: wire tensors of the codes' ``gradients``."""
        return gradients

    def decode_gradients(self, wire: Tensors) -> Tensors:
        """At the sender: the codes' gradients, as exactly as the encoding permits."""
        return wire


class Float16(Stage):
    """Floating-point values travel as float16, those beyond its range as its largest."""

    def encode(self, codes: Tensors) -> Tensors:
        return {name: _half(code) if code.is_floating_point() else code for name, code in codes.items()}

    def decode(self, wire: Tensors) -> Tensors:
        return {name: code.to(self.shapes[name].dtype) for name, code in wire.items()}


def _half(code: torch.Tensor) -> torch.Tensor:
    largest = torch.finfo(torch.float16).max
    return code.clamp(-largest, largest).half()


RANGE = "/range"


class Int8(Stage):
    """Floating-point values travel as 256 even steps from the tensor's least to its largest."""

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


BUILT_IN = {"identity": Stage, "float16": Float16, "int8": Int8}


def build_stage(spec: StageSpec, shapes: dict[str, Any]) -> Stage:
    """The stage that ``spec`` names, for a boundary of ``shapes``. Raises ModelError."""
    make = BUILT_IN.get(spec.name)
    if make is None and ":" not in spec.name:
        raise ModelError(f"unknown stage {spec.name!r}: neither {', '.join(BUILT_IN)} nor module:callable")
    tensors = {name: value for name, value in shapes.items() if isinstance(value, torch.Tensor)}
    try:
        stage = (make or named(spec.name))(tensors, **spec.options)
    except Exception as error:
        raise ModelError(f"stage {spec.name} cannot be made: {said(error)}") from None
    if not isinstance(stage, Stage):
        raise ModelError(f"stage {spec.name} made a {type(stage).__name__}, not a nodes.stage.Stage")
    halves = [set(half.parameters()) for half in (stage.sender, stage.receiver)]
    if set.union(*halves) != set(stage.parameters()) or set.intersection(*halves):
        raise ModelError(f"stage {spec.name}: each parameter must stand in sender or in receiver, none in both")
    return stage
