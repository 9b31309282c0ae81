"""DynSplit's stage: a gate that chooses one of several paths per sample, each with an encoder and a decoder.

DynSplit, Algorithms 1 and 2. A batch's codes cross path by path, and the choices in ceil(log2 n) bits a sample. The
receiver decodes each sample by its path and multiplies it by its gate, a 1 with a gradient that returns: so the gate
learns from the task. The batch norms of a path see only the samples on it.

Departures from the paper: lambda times the ratio loss is added at the UE, where the gate is, instead of the server
(Algorithm 1), with the same gradient. The gate multiplies the decoder's output instead of the encoder's (Eq. 1), so
the server can return its gradient. The choice is sent, which Algorithm 2 leaves out and decoding needs. A single path
has no gate and is BottleNet++'s auto-encoder.
"""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from nodes.model.boundary import Tensors
from nodes.stages import bottleneck
from nodes.stages.base import Stage
from nodes.stages.bottleneck import Geometry
from nodes.stages.deflate import deflate, inflate
from nodes.stages.dynsplit import gate as gating
from nodes.stages.entropy_coder import Counts, decode_levels, encode_levels

RECENT = 1024  # margins from which the threshold for ``share`` is computed
CHOICE, GATE = "choice", "gate"  # names of codes; the code of a path has its number
Lossless = Literal["deflate", "entropy"] | None


class CodedPath:
    """One path for samples of ``shape`` (C, H, W), with ``channels`` in its code; 0 for no coders.

    Codes cross at ``bits`` a number, or as float32 (None, and without coders). ``lossless`` compresses them further:
    deflated, or entropy-coded at inference with tables that both ends learn from the packed codes of training.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, bits: int | None, geometry: Geometry, lossless: Lossless
    ) -> None:
        deep, height, width = shape
        self.bits = bits if channels else None
        self.lossless = lossless if self.bits else None
        self.code_shape = (channels, geometry.code_side(height), geometry.code_side(width)) if channels else shape
        self.encoder = bottleneck.encoder(deep, channels, geometry) if channels else nn.Identity()
        self.decoder = bottleneck.decoder(channels, deep, (height, width), geometry) if channels else nn.Identity()
        places = math.prod(self.code_shape[1:])
        counted = self.lossless == "entropy"
        self.sent_counts, self.received_counts = (
            Counts(channels, places, 2 ** (bits or 0)) if counted else None for _ in range(2)
        )

    @property
    def sample_bytes(self) -> int:
        """Bytes of the code of one sample on the wire, without lossless coding."""
        size = math.prod(self.code_shape)
        return bottleneck.packed_bytes(size, self.bits) if self.bits else 4 * size

    def rows(self, code: torch.Tensor, training: bool) -> torch.Tensor:
        """The wire tensor of ``code`` (N, C', H', W'): float32, a row of bytes a sample, or one lossless stream."""
        if not self.bits:
            return code
        numbers = bottleneck.to_levels(code, self.bits).flatten(1)
        if self.sent_counts is not None and not code.is_meta:
            if not training:
                return encode_levels(numbers, self.sent_counts.frequencies()).to(code.device)
            self.sent_counts.add(numbers)
        rows = bottleneck.pack(numbers, self.bits)
        return deflate(rows) if self.lossless == "deflate" and not rows.is_meta else rows

    def code(self, rows: torch.Tensor) -> torch.Tensor:
        """The codes of the wire tensor ``rows``. Raises ValueError."""
        if self.bits:
            return bottleneck.from_levels(self._numbers(rows, self.bits), self.bits).view(-1, *self.code_shape)
        if rows.shape[1:] != self.code_shape or rows.dtype != torch.float32:
            raise ValueError(f"codes: got {rows.dtype} {list(rows.shape)}, expected float32 (N, {self.code_shape})")
        return rows

    def _numbers(self, rows: torch.Tensor, bits: int) -> torch.Tensor:
        if self.received_counts is not None and rows.ndim == 1:
            return decode_levels(rows, self.received_counts.frequencies())
        if self.lossless == "deflate" and not rows.is_meta:
            rows = inflate(rows, self.sample_bytes)
        numbers = bottleneck.unpack(rows, bits, math.prod(self.code_shape))
        if self.received_counts is not None and not rows.is_meta:
            self.received_counts.add(numbers)
        return numbers


class DynSplit(Stage):
    """Several paths over a boundary of one tensor (N, C, H, W) (DynSplit, section IV).

    Args:
        shapes: The boundary's tensor for one picture.
        paths: Channels of each path's code, the most expensive path first; 0 for a path without coders.
        bits: Bits of a number of a code, 1 to 8; None: float32.
        target: Share of samples wanted on each path but the last.
        gate: "learned"; "random" keeps the shares and ignores the samples.
        loss: The ratio loss: Eq. 5 ("distance") or Eq. 6 ("excess").
        weight: Weight of the ratio loss (lambda).
        temperatures: Gumbel-softmax temperature of the first and of the last epoch.
        spread: Standard deviation of the gate's scores over a batch; None: not standardised.
        hidden: Hidden units of the gate.
        warm_up: First epochs with a random choice.
        window: Kernel, stride and padding of the coders.
        lossless: "deflate" always, or "entropy" at inference, with tables learned in training.
        share: Share of samples for the first path at inference, whatever the target: those with a margin among the
            largest of the last RECENT seen. May be set between batches.

    Raises ValueError for options that make no set of paths over this boundary.
    """

    def __init__(  # noqa: PLR0917 (a suite's options)
        self,
        shapes: Tensors,
        paths: Sequence[int] = (12, 2),
        bits: int | None = 8,
        target: Sequence[float] = (0.2,),
        gate: Literal["learned", "random"] = "learned",
        loss: Literal["distance", "excess"] = "distance",
        weight: float = 1.0,
        temperatures: tuple[float, float] = (1.0, 1.0),
        spread: float | None = 2.0,
        hidden: int = 16,
        warm_up: int = 0,
        window: Sequence[int] = bottleneck.BOTTLENET,
        lossless: Lossless = None,
        share: float | None = None,
    ) -> None:
        super().__init__(shapes)
        self.name, one = self.single_tensor(4)
        _check(paths, bits, target)
        if share is not None and (not 0 <= share <= 1 or gate != "learned" or len(paths) < 2):
            raise ValueError(f"share {share}: from 0 to 1, of samples among which a learned gate chooses")
        if lossless not in (None, "deflate", "entropy"):
            raise ValueError(f"lossless {lossless!r}, expected deflate, entropy or null")
        deep, height, width = one.shape[1:]
        geometry = Geometry(*window)
        self.paths = [CodedPath((deep, height, width), channels, bits, geometry, lossless) for channels in paths]
        self.above_only, self.weight = loss == "excess", weight
        self.temperatures, self.warm_up = temperatures, warm_up
        self.sender = nn.ModuleDict({f"encoder{i}": path.encoder for i, path in enumerate(self.paths)})
        self.receiver = nn.ModuleDict({f"decoder{i}": path.decoder for i, path in enumerate(self.paths)})
        for i, path in enumerate(self.paths):
            if path.sent_counts is not None and path.received_counts is not None:
                self.sender[f"levels{i}"], self.receiver[f"levels{i}"] = path.sent_counts, path.received_counts
        if gate == "learned" and len(paths) > 1:
            self.sender[GATE] = gating.Gate(deep, len(paths), hidden, spread)
        self.target = torch.tensor(list(target)[: len(paths) - 1])
        self.sender.register_buffer("threshold", torch.tensor(0.0))  # saved and moved with the gate's parameters
        self.random_share: float | None = None  # at inference: choose at random with this first path's share
        self.share = share
        self._margins = torch.empty(0)  # the last of inference, for ``share``
        self.scores: torch.Tensor | None = None  # (N, n), of the last ``compress``
        self.choice_bits = (len(paths) - 1).bit_length()
        self._epoch, self._epochs = 0, 1

    @property
    def gate(self) -> gating.Gate | None:
        held = cast(nn.ModuleDict, self.sender)
        return cast(gating.Gate, held[GATE]) if GATE in held else None

    @property
    def threshold(self) -> float:
        """Threshold of ``gating.choose_paths`` at inference; a buffer of the sender."""
        return float(self.sender.get_buffer("threshold"))

    @threshold.setter
    def threshold(self, margin: float) -> None:
        self.sender.get_buffer("threshold").fill_(margin)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self._epoch, self._epochs = epoch, epochs
        self._margins = torch.empty(0)  # margins of the network before this epoch do not apply

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        value = values[self.name]
        codes, loss = self._choose(value)
        for number, path in enumerate(self.paths):
            rows = _rows(codes[CHOICE], number)
            if len(rows):
                codes[str(number)] = path.encoder(value[rows.to(value.device)])
        return codes, loss

    def encode(self, codes: Tensors) -> Tensors:
        """The wire tensor of each path that has samples, and the choices of all samples in one packed row."""
        wire = {str(i): path.rows(codes[str(i)], self.training) for i, path in enumerate(self.paths) if str(i) in codes}
        if self.choice_bits:
            wire[CHOICE] = bottleneck.pack(codes[CHOICE].to(torch.uint8)[None], self.choice_bits)
        return wire

    def decode(self, wire: Tensors) -> Tensors:
        """The codes. Raises ValueError unless their numbers are those of the choices."""
        codes = {str(i): path.code(wire[str(i)]) for i, path in enumerate(self.paths) if str(i) in wire}
        if not codes or wire.keys() - codes.keys() != ({CHOICE} if self.choice_bits else set()):
            raise ValueError(
                f"paths: got wire tensors {sorted(wire)}, expected some of {len(self.paths)} paths and their choice"
            )
        count, device = sum(map(len, codes.values())), next(iter(codes.values())).device
        choice = torch.zeros(count, dtype=torch.int64, device=device)
        if self.choice_bits:
            choice = bottleneck.unpack(wire[CHOICE], self.choice_bits, count)[0].long()
        came = [len(codes.get(str(i), ())) for i in range(len(self.paths))]
        if not choice.is_meta and came != (due := torch.bincount(choice, minlength=len(came)).tolist()):
            raise ValueError(f"paths: got {came} codes by path, expected {due} by the choices")
        return {**codes, CHOICE: choice, GATE: torch.ones(count, device=device)}

    def restore(self, codes: Tensors) -> Tensors:
        decoded = {i: path.decoder(codes[str(i)]) for i, path in enumerate(self.paths) if str(i) in codes}
        restored = torch.zeros_like(next(iter(decoded.values()))[:1]).repeat(len(codes[CHOICE]), 1, 1, 1)
        for number, some in decoded.items():
            restored = restored.index_copy(0, _rows(codes[CHOICE], number, len(some)), some)
        return {self.name: restored * codes[GATE].view(-1, 1, 1, 1)}

    def _choose(self, value: torch.Tensor) -> tuple[Tensors, torch.Tensor | None]:
        """The choice (N,) of each sample of ``value``; in training also its gate (N,) and the ratio loss."""
        self.scores = None if self.gate is None or value.is_meta else self.gate(value)
        if self.scores is None or (self.random_share is not None and not self.training):
            return self._tell({CHOICE: self._unseeing(value)}), None
        if not self.training:
            return {CHOICE: gating.choose_paths(self.scores, self._limit(self.scores))}, None
        warmth = gating.temperature(min(self._epoch, self._epochs - 1), self._epochs, *self.temperatures)
        soft = gating.gumbel_softmax(self.scores, gating.gumbel_noise(torch.rand_like(self.scores)), warmth)
        preferred = soft.argmax(1)
        choice = self._unseeing(value) if self._epoch < self.warm_up else preferred
        observed = gating.observed_shares(soft, preferred)
        loss = self.weight * gating.ratio_loss(observed, self.target.to(value.device), self.above_only)
        codes = self._tell({CHOICE: choice, GATE: gating.straight_through(soft, choice)})
        self.metrics["information"] = len(value) * gating.mutual_information(self.scores.detach().softmax(1))
        return codes, loss

    def _limit(self, scores: torch.Tensor) -> float:
        if self.share is None:
            return self.threshold
        self._margins = torch.cat([self._margins, gating.margin(scores).cpu()])[-RECENT:]
        return gating.threshold_for(self._margins, self.share)

    def _unseeing(self, value: torch.Tensor) -> torch.Tensor:
        """A choice (N,) that keeps the shares and ignores the samples; in virtual time, the target's shares."""
        target = self.target.to("cpu" if value.is_meta else value.device)
        if self.training and not value.is_meta:
            return gating.assign_paths(torch.rand(len(value), device=value.device), target)
        share = self.share if value.is_meta else self.random_share
        if share is not None and not self.training:
            target = torch.cat([target.new_tensor([share]), target[1:] * (1 - share)])
        return gating.assign_paths(gating.evenly_spaced(len(value)).to(target.device), target)

    def _tell(self, codes: Tensors) -> Tensors:
        self.metrics = {f"path{i}": float((codes[CHOICE] == i).sum()) for i in range(len(self.paths))}
        return codes


def _rows(choice: torch.Tensor, number: int, count: int = 0) -> torch.Tensor:
    """The samples on path ``number``; ``count`` of them on the meta device."""
    return torch.arange(count, device="meta") if choice.is_meta else (choice == number).nonzero()[:, 0]


def _check(paths: Sequence[int], bits: int | None, target: Sequence[float]) -> None:
    if not paths or min(paths) < 0 or len(paths) > 256:
        raise ValueError(f"paths {list(paths)}: one or more numbers of channels, 0 for no coders")
    if bits is not None and not 1 <= bits <= 8:
        raise ValueError(f"{bits} bits: 1 to 8, or null for float32")
    if len(paths) > 1 and (len(target) != len(paths) - 1 or min(target) < 0 or sum(target) > 1):
        raise ValueError(f"target {list(target)}: a share for each of the {len(paths)} paths but the last")
