"""Stage of deprune and prune: coders, a filter over their maps, and a budget of the maps that cross.

Deprune, section 3.1: convolution and batch norm, times the filter's strengths. The strongest maps cross with their
numbers; all others are zero for the transposed convolution at the receiver. Features (N, C) have the filter alone.
We depart from Algorithm 2: epsilon times Eq. 1 is added at the sender, where the filter is, with the gradient of
Eq. 2, and the strengths do not cross.
"""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import nn

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage
from nodes.stages.bottleneck import Geometry, decoder, encoder
from nodes.stages.deprune import budget as budgets
from nodes.stages.deprune.budget import BudgetPhase, Flatness, PhasePosition, map_budget
from nodes.stages.deprune.channel_filter import FACTS, ChannelFilter, Fact, prune_loss, strongest_maps
from nodes.stages.deprune.kept_maps import decode_maps, encode_maps
from nodes.stages.deprune.quantiser import dequantise, quantise

MAPS, WHICH, RANGES, STRENGTHS = "maps", "which", "ranges", "strengths"
Choice = Literal["filter", "random", "magnitude", "taylor"]
CODED_NORM = 0.03, 1e-4  # momentum and epsilon of the coders' batch norm in the authors' code


class Pruned(Stage):
    """A filter over a boundary of one tensor (N, C, H, W) or (N, C), under a plan of budgets.

    Args:
        shapes: The boundary's tensor for one picture.
        phases: (epochs, share of the maps) in turn.
        flatness: (window, least fall): end a phase once its loss is flat, see ``Flatness``.
        reset: Draw the kept strengths again after each phase (prune, Algorithm 3).
        resolution: r of section 3.1: kernel 2 + r, stride r, padding r.
        delta: Factor in the exponents of Eq. 1.
        epsilon: Weight of Eq. 1 in Eq. 2.
        barrier: lambda of Eq. 1.
        choice: "filter", or without one: "random"; "magnitude", of the coder's kernels; "taylor", the sum over all
            pictures of |g·l|, where l is a map and g its gradient, while all maps cross in the first phase. That is
            the change of the loss, to first order, without the map.
        code_bits: Quantise the maps to 1 to 8 bits, beyond the paper; None: float32.
        gradient_bits: Quantise their gradients likewise.
        as_coded: As in the authors' code: True for all ``FACTS`` in which it differs from the paper, or some by name.

    Raises ValueError for options that make no filter over this boundary.
    """

    def __init__(  # noqa: PLR0917 (a suite's options)
        self,
        shapes: Tensors,
        phases: Sequence[tuple[int, float]] = ((1, 1.0),),
        flatness: tuple[int, float] | None = None,
        reset: bool = False,
        resolution: int = 1,
        delta: float = 0.01,
        epsilon: float = 1000.0,
        barrier: float = 1.0,
        choice: Choice = "filter",
        code_bits: int | None = None,
        gradient_bits: int | None = None,
        as_coded: bool | Sequence[Fact] = False,
    ) -> None:
        super().__init__(shapes)
        self.phases = tuple(BudgetPhase(*phase) for phase in phases)
        self.name, one = self.single_tensor(4, 2)
        self._facts = set(FACTS if as_coded is True else as_coded or ())
        _check(self.phases, resolution, choice, (code_bits, gradient_bits))
        _check_facts(self._facts, code_bits)
        if choice == "magnitude" and one.ndim == 2:
            raise ValueError("choice magnitude needs the kernels of a coder; features have none")
        self.maps = one.shape[1]
        self._flatness = None if flatness is None else Flatness(*flatness)
        self._resets, self._choice = reset, choice
        self._delta, self._epsilon, self._barrier = delta, epsilon, barrier
        self._code_bits, self._gradient_bits = code_bits, gradient_bits
        self._map_shape = tuple(one.shape[2:])
        self.sender: nn.ModuleDict = nn.ModuleDict()
        self.receiver: nn.ModuleDict = nn.ModuleDict()
        if self._map_shape:
            height, width = self._map_shape
            geometry = Geometry(2 + resolution, resolution, resolution)
            self.sender["encoder"] = encoder(self.maps, self.maps, geometry, sigmoid="sigmoid" in self._facts)
            self.receiver["decoder"] = decoder(self.maps, self.maps, (height, width), geometry)
            if "norm" in self._facts:
                for name in ("encoder", "decoder"):
                    norm = cast(nn.BatchNorm2d, self._coder(name)[1])
                    norm.momentum, norm.eps = CODED_NORM
            self._map_shape = (geometry.code_side(height), geometry.code_side(width))
        if choice == "filter":
            self.sender["filter"] = ChannelFilter(self.maps, "uniform" in self._facts)
        if choice == "taylor":
            self.sender.register_buffer("importance", torch.zeros(self.maps))
        self._seed = int(torch.randint(2**62, (), device="cpu"))
        self._shuffled = torch.randperm(self.maps, device="cpu")
        # Buffers, so that checkpoints and kept states have them.
        self.sender.register_buffer("budget", torch.tensor(map_budget(self.phases[0].share, self.maps)))
        self.sender.register_buffer("losses", torch.zeros(sum(phase.epochs for phase in self.phases)))
        self.sender.register_buffer("began", torch.zeros(self.maps))  # 1 for maps kept at the beginning of the phase
        self._epoch, self._begun, self._phase = 0, False, 0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the epoch. Its budget holds from its first training batch on; tests before that use the last epoch's."""
        self._epoch, self._begun = epoch, False

    def trained(self, metrics: dict[str, float]) -> None:
        """Add the batch's loss, which may end a phase."""
        losses = self._buffer("losses")
        if self._epoch < len(losses):
            losses[self._epoch] += metrics.get("loss", 0.0)

    def _begin(self) -> None:
        """Set the budget of the epoch; reset the strengths after the end of a phase (prune)."""
        self._begun = True
        before, moment = self._moment(self._epoch - 1), self._moment(self._epoch)
        self._phase = moment.phase
        if moment.phase != before.phase and self._resets and self._choice == "filter":
            generator = torch.Generator().manual_seed(self._seed + moment.phase)
            if "opened" in self._facts:
                self._filter().open(generator)
            else:
                self._filter().reset(self.which(), generator)
        self._buffer("budget").fill_(map_budget(self.phases[moment.phase].share, self.maps))
        if not moment.since:
            self._buffer("began").zero_()[self.which()] = 1

    def _moment(self, epoch: int) -> PhasePosition:
        if epoch < 0:
            return PhasePosition(0, 0)
        losses = self._buffer("losses")
        if self._flatness is None or losses.is_meta:
            return budgets.position_by_plan(self.phases, epoch)
        return budgets.position_by_loss(self.phases, self._flatness, losses[:epoch].tolist())

    def which(self) -> torch.Tensor:
        """Numbers (B,) of the maps that cross now, ascending."""
        budget = self._buffer("budget")
        if budget.is_meta:
            return torch.arange(map_budget(self.phases[self._phase].share, self.maps), device="meta")
        if int(budget) == self.maps:
            return torch.arange(self.maps, device=budget.device)
        if self._choice == "filter":
            return strongest_maps(self._filter()(), int(budget))
        if self._choice == "magnitude":
            kernels = self._coder("encoder")[0].get_parameter("weight")
            return strongest_maps(kernels.abs().sum((1, 2, 3)), int(budget))
        if self._choice == "taylor":
            return strongest_maps(self._buffer("importance"), int(budget))
        return self._shuffled[: int(budget)].sort().values.to(budget.device)

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        if self.training and not self._begun:
            self._begin()
        value, which = values[self.name], self.which()
        maps = encode_maps(self._coder("encoder"), value, which) if "encoder" in self.sender else value[:, which]
        if not value.is_meta:
            same = float(self._buffer("began")[which].mean())  # share of the maps kept when the phase began
            self.metrics = {"budget": float(len(value) * len(which)), "same": len(value) * same}
        if self._choice != "filter":
            if self._choice == "taylor" and len(which) == self.maps and self.training and maps.requires_grad:
                self._note_importance(maps)
            return {MAPS: maps, WHICH: which}, None
        return self._filtered(maps, which)

    def _filtered(self, maps: torch.Tensor, which: torch.Tensor) -> tuple[Tensors, torch.Tensor | None]:
        """The codes of ``maps`` times their strengths, and epsilon times Eq. 1."""
        strengths = self._filter()()
        still = "frozen" in self._facts and len(which) == self.maps
        if still:
            strengths = strengths.detach()
        summed = strengths.square() if "squared" in self._facts else strengths
        if not maps.is_meta:
            self.metrics["strength"] = len(maps) * float(summed.detach().sum())
        codes = {MAPS: maps * strengths[which].view(-1, *[1] * (maps.ndim - 2)), WHICH: which}
        if still:
            return codes, None
        if "thrice" in self._facts:
            codes[STRENGTHS] = strengths[which].detach()
        return codes, self._epsilon * prune_loss(summed, len(which), self._delta, self._barrier)

    def _note_importance(self, maps: torch.Tensor) -> None:
        """Add |g·l| of each picture, once the gradient g of ``maps`` l has returned."""
        held, importance = maps.detach(), self._buffer("importance")

        def add(gradient: torch.Tensor) -> None:
            importance.add_((gradient * held).reshape(*held.shape[:2], -1).sum(2).abs().sum(0))

        maps.register_hook(add)  # type: ignore[no-untyped-call]  # torch has no types here

    def encode(self, codes: Tensors) -> Tensors:
        """The maps as float32, float16, or packed with their ranges, and their numbers unless all cross."""
        wire = self._narrowed(codes[MAPS], self._code_bits)
        if "half" in self._facts:
            wire[MAPS] = wire[MAPS].half()
        if STRENGTHS in codes:
            wire[STRENGTHS] = codes[STRENGTHS]
        if len(codes[WHICH]) < self.maps:
            wire[WHICH] = codes[WHICH].to(torch.uint8 if self.maps <= 256 else torch.int32)
        return wire

    def decode(self, wire: Tensors) -> Tensors:
        """The codes. Raises ValueError for tensors that are no maps of this boundary."""
        if MAPS not in wire:
            raise ValueError(f"got wire tensors {sorted(wire)}, expected {MAPS!r}")
        which = wire[WHICH].long() if WHICH in wire else torch.arange(self.maps, device=wire[MAPS].device)
        if which.ndim != 1 or not 1 <= len(which) <= self.maps:
            raise ValueError(f"numbers of maps: got {list(which.shape)}, expected (B,) with B from 1 to {self.maps}")
        if not which.is_meta and not ((which.diff() > 0).all() and which[0] >= 0 and which[-1] < self.maps):
            raise ValueError(
                f"numbers of maps: got {which.tolist()}, expected ascending ones from 0 to {self.maps - 1}"
            )
        codes = {WHICH: which}
        if "thrice" in self._facts and STRENGTHS in wire:
            wire = dict(wire)
            codes[STRENGTHS] = wire.pop(STRENGTHS)
            if (codes[STRENGTHS].shape, codes[STRENGTHS].dtype) != (which.shape, torch.float32):
                got = f"{codes[STRENGTHS].dtype} {list(codes[STRENGTHS].shape)}"
                raise ValueError(f"strengths: got {got}, expected float32 ({len(which)},)")
        dtype = torch.float16 if "half" in self._facts else torch.float32
        return codes | {MAPS: self._widened(wire, len(which), self._code_bits, dtype)}

    def restore(self, codes: Tensors) -> Tensors:
        maps, which = codes[MAPS], codes[WHICH]
        if STRENGTHS in codes:
            maps = maps * codes[STRENGTHS].square().view(-1, *[1] * (maps.ndim - 2))
        if "decoder" in self.receiver:
            return {self.name: decode_maps(self._coder("decoder"), maps, which)}
        whole = torch.zeros(len(maps), self.maps, dtype=maps.dtype, device=maps.device)
        return {self.name: whole.index_copy(1, which, maps)}

    def encode_gradients(self, gradients: Tensors) -> Tensors:
        return self._narrowed(gradients[MAPS], self._gradient_bits) if MAPS in gradients else gradients

    def decode_gradients(self, wire: Tensors) -> Tensors:
        if MAPS not in wire:
            return wire
        budget = len(wire[RANGES]) if RANGES in wire else wire[MAPS].shape[1]
        return {MAPS: self._widened(wire, budget, self._gradient_bits)}

    def _narrowed(self, maps: torch.Tensor, bits: int | None) -> Tensors:
        if bits is None:
            return {MAPS: maps}
        rows, ranges = quantise(maps, bits)
        return {MAPS: rows, RANGES: ranges}

    def _widened(
        self, wire: Tensors, budget: int, bits: int | None, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        shape, expected = (budget, *self._map_shape), {MAPS} if bits is None else {MAPS, RANGES}
        if wire.keys() - {WHICH} != expected:
            raise ValueError(f"got wire tensors {sorted(wire)}, expected {sorted(expected)}")
        if bits is not None:
            return dequantise(wire[MAPS], wire[RANGES], bits, shape)
        if tuple(wire[MAPS].shape[1:]) != shape or wire[MAPS].dtype != dtype:
            raise ValueError(f"maps: got {wire[MAPS].dtype} {list(wire[MAPS].shape)}, expected {dtype} (N, {shape})")
        return wire[MAPS].float()

    def _buffer(self, name: str) -> torch.Tensor:
        return self.sender.get_buffer(name)

    def _filter(self) -> ChannelFilter:
        return cast(ChannelFilter, self.sender["filter"])

    def _coder(self, name: str) -> nn.Sequential:
        return cast(nn.Sequential, (self.sender if name == "encoder" else self.receiver)[name])


def _check(phases: Sequence[BudgetPhase], resolution: int, choice: Choice, bits: Sequence[int | None]) -> None:
    if not phases or any(phase.epochs < 1 or not 0 < phase.share <= 1 for phase in phases):
        raise ValueError(f"phases {[list(phase) for phase in phases]}: epochs from 1 on, shares above 0 and at most 1")
    if resolution < 1:
        raise ValueError(f"resolution {resolution}, expected at least 1")
    if choice not in get_args(Choice):
        raise ValueError(f"choice {choice!r}, expected one of {', '.join(get_args(Choice))}")
    if choice == "taylor" and phases[0].share < 1:
        raise ValueError("choice taylor weighs the maps while all cross; give a first phase with a share of 1")
    if any(number is not None and not 1 <= number <= 8 for number in bits):
        raise ValueError(f"{list(bits)} bits: 1 to 8, or null for float32")


def _check_facts(facts: set[Fact], code_bits: int | None) -> None:
    if unknown := facts - set(FACTS):
        raise ValueError(f"as_coded: got {', '.join(sorted(unknown))}, expected some of {', '.join(FACTS)}")
    if "half" in facts and code_bits is not None:
        raise ValueError(f"as_coded half sends float16; leave out code_bits, got {code_bits}")
