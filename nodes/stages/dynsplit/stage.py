"""DynSplit's stage: a gate that chooses one of several paths per sample, each with an encoder and a decoder.

DynSplit, Algorithms 1 and 2. A batch's codes cross path by path, and the choices in ceil(log2 n) bits a sample. What
the gate learns from in training is the option ``gradient``; the paper has the first three.

========= ======================================================= ============================= =====================
gradient  training                                                crosses to the receiver       and back, a sample
========= ======================================================= ============================= =====================
smashed   Algorithm 1: the gate multiplies what is encoded        the chosen path's code        its gradient
chosen    the gate multiplies what the decoder returns            the chosen path's code        its gradient, 1 number
all       Eq. 1: a sum over all paths, weighted by the gate       the code of each path         their gradients, n
                                                                                                numbers
losses    beyond the paper: the mean loss over all paths, and a   the code of each path         their gradients, n
          gate that predicts how much less each path's loss is                                  losses
========= ======================================================= ============================= =====================

The gate is 0 or 1, with the gradient of Eq. 4's relaxation. The batch norms of a path see the samples that cross it;
through them a chosen path's loss has a gradient for the codes of other samples too, so all codes' gradients return.

Departures from the paper: lambda times the ratio loss is added at the UE, where the gate is, instead of the server
(Algorithm 1), with the same gradient. Eq. 1 adds what encoders of different widths return; here their decoders'
outputs are added. The choice is sent, which Algorithm 2 leaves out and decoding needs. A single path has no gate and
is BottleNet++'s auto-encoder.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from nodes.model.boundary import Tensors
from nodes.stages import bottleneck
from nodes.stages.base import Stage
from nodes.stages.bottleneck import Geometry
from nodes.stages.dynsplit import gate as gating
from nodes.stages.dynsplit.path import CodedPath, Coders, Lossless, Prior

RECENT = 1024  # margins from which the threshold for ``share`` is computed
CHOICE, GATE, LOSSES = "choice", "gate", "losses"  # names of codes; the code of a path has its number
EVERY = "every"  # the choice, where every path has a code for every sample
Gradient = Literal["smashed", "chosen", "all", "losses"]
Inference = Literal["argmax", "sampled"]


class DynSplit(Stage):
    """Several paths over a boundary of one tensor (N, C, H, W) (DynSplit, section IV).

    Args:
        shapes: The boundary's tensor for one picture.
        paths: Channels of each path's code, the most expensive path first; 0 for a path without coders.
        bits: Bits of a number of a code, 1 to 8; None: float32.
        target: Share of samples wanted on each path but the last; None: equal shares.
        gate: "learned"; "random" keeps the shares and ignores the samples; "step" so does, with one path for a batch.
        gradient: What a learned gate learns from, as above.
        inference: The path of the largest score ("argmax"), or one drawn as in training ("sampled", section IV-B).
        loss: The ratio loss: Eq. 5 ("distance") or Eq. 6 ("excess").
        weight: Weight of the ratio loss (lambda).
        temperatures: Gumbel-softmax temperature of the first and of the last epoch.
        spread: Standard deviation of the gate's scores over a batch; None: not standardised, as those of "losses".
        hidden: Hidden units of the gate.
        convolves: Let the gate see features of neighbouring pixels beside each channel's mean and deviation.
        code_entropy: Let it see the entropy of each encoder's quantised code of a sample too.
        exit_classes: Let it see the entropy of an early exit's answer too: a linear classifier of so many classes at
            the sender that learns from the labels; nothing of it crosses.
        warm_up: First epochs with a random choice.
        window: Kernel, stride and padding of the coders.
        rate: Weight of the bits of a sample's code in the loss, by a factorised prior that learns with the encoder.
        nested: One encoder and decoder for all paths; a path's code has its first channels.
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
        target: Sequence[float] | None = (0.2,),
        gate: Literal["learned", "random", "step"] = "learned",
        loss: Literal["distance", "excess"] = "distance",
        weight: float = 1.0,
        temperatures: tuple[float, float] = (1.0, 1.0),
        spread: float | None = 2.0,
        hidden: int = 16,
        warm_up: int = 0,
        window: Sequence[int] = bottleneck.BOTTLENET,
        lossless: Lossless = None,
        share: float | None = None,
        gradient: Gradient = "chosen",
        inference: Inference = "argmax",
        nested: bool = False,
        rate: float = 0.0,
        convolves: bool = False,
        code_entropy: bool = False,
        exit_classes: int | None = None,
    ) -> None:
        super().__init__(shapes)
        self.name, one = self.single_tensor(4)
        target = [1 / len(paths)] * (len(paths) - 1) if target is None else list(target)
        _check(paths, bits, target, nested)
        learned = gate == "learned" and len(paths) > 1
        _check_gate(learned, gradient, inference, share)
        _check_hints(learned, code_entropy and (bits is None or not any(paths)), code_entropy, exit_classes)
        if lossless not in (None, "deflate", "entropy"):
            raise ValueError(f"lossless {lossless!r}, expected deflate, entropy or null")
        deep, height, width = one.shape[1:]
        shape, geometry = (deep, height, width), Geometry(*window)
        coders = [Coders(shape, channels, geometry) for channels in ([max(paths)] if nested else paths)]
        of_path = coders * len(paths) if nested else coders
        self.paths = [CodedPath(*one, bits, lossless) for one in zip(of_path, paths, strict=True)]
        self.above_only, self.weight = loss == "excess", weight
        self.temperatures, self.warm_up = temperatures, warm_up
        self.gradient, self.nested, self._by_step = gradient, nested, gate == "step"
        self.weighs_losses = gradient == "losses"
        self.sender = nn.ModuleDict({f"encoder{i}": one.encoder for i, one in enumerate(coders)})
        self.receiver = nn.ModuleDict({f"decoder{i}": one.decoder for i, one in enumerate(coders)})
        for i, path in enumerate(self.paths):
            if path.sent_counts is not None and path.received_counts is not None:
                self.sender[f"levels{i}"], self.receiver[f"levels{i}"] = path.sent_counts, path.received_counts
        self._measured = [one.encoder for one in coders if one.channels] if code_entropy else []
        self._bits = bits or 0
        self.needs_labels = exit_classes is not None
        if learned:
            spread = None if self.weighs_losses else spread
            told = len(self._measured)
            self.sender[GATE] = gating.Gate(
                deep, len(paths), hidden, spread, convolves, exit_classes=exit_classes, told=told
            )
        self.rate = rate
        if rate:
            if bits is None or not all(paths) or nested:
                raise ValueError("rate: of paths that have coders of their own and bits")
            for i, channels in enumerate(paths):
                self.sender[f"prior{i}"] = Prior(channels, 2**bits)
        self.target = torch.tensor(target[: len(paths) - 1])
        self.sender.register_buffer("threshold", torch.tensor(0.0))  # saved and moved with the gate's parameters
        self.inference = inference
        self.random_share: float | None = None  # at inference: choose at random with this first path's share
        self.only: int | None = None  # at inference: the number of the path that all samples take
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
    def samples(self) -> bool:
        """Whether the gate's scores are those of a distribution over the paths, from which "sampled" draws."""
        return self.gate is not None and not self.weighs_losses

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
        rows = None
        if CHOICE in codes:
            rows = [_rows(codes[CHOICE], i).to(value.device) for i in range(len(self.paths))]
            if self.gradient == "smashed" and GATE in codes:
                value = value * codes.pop(GATE).view(-1, 1, 1, 1)
        given = {str(i): code for i, code in enumerate(self._encoded(value, rows)) if len(code)}
        if self.rate and self.training:
            bits = sum((self._prior_bits(i, code) * len(code) for i, code in given.items()), value.new_zeros(()))
            loss = self.rate * bits / len(value) + (0 if loss is None else loss)
        if self.needs_labels and self.training and not value.is_meta:
            loss = self._exit_loss(value) + (0 if loss is None else loss)
        return codes | given, loss

    def _exit_loss(self, value: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of the early exit's answers, from which it alone learns."""
        assert self.gate is not None
        if self.labels is None:
            raise ValueError("exit_classes: the batch came without the labels that the early exit learns from")
        return nn.functional.cross_entropy(self.gate.early_answer(value), self.labels.to(value.device))

    def _code_entropies(self, value: torch.Tensor) -> torch.Tensor | None:
        """Entropy (N, encoders) of each encoder's quantised code, by running statistics, which stay as they are."""
        found = []
        for encoder in self._measured:
            training = encoder.training
            with torch.no_grad():
                levels = bottleneck.to_levels(encoder.eval()(value), self._bits)
            encoder.train(training)
            found.append(gating.entropy_of_levels(levels, 2**self._bits))
        return torch.stack(found, dim=1) if found else None

    def _prior_bits(self, number: str, code: torch.Tensor) -> torch.Tensor:
        """Bits a sample of the ``code`` of path ``number``, with even noise in place of rounding."""
        prior = cast(Prior, cast(nn.ModuleDict, self.sender)[f"prior{number}"])
        levels = code * float(2 ** (self.paths[int(number)].bits or 0) - 1)
        return prior.bits(levels + torch.rand_like(levels) - 0.5)

    def encode(self, codes: Tensors) -> Tensors:
        """The wire tensor of each path that has samples, and the choices of all samples in one packed row."""
        wire = {str(i): path.rows(codes[str(i)], self.training) for i, path in enumerate(self.paths) if str(i) in codes}
        for name in {CHOICE, EVERY} & codes.keys() if self.choice_bits else ():
            wire[name] = bottleneck.pack(codes[name].to(torch.uint8)[None], self.choice_bits)
        return wire

    def decode(self, wire: Tensors) -> Tensors:
        """The codes. Raises ValueError unless their numbers are those of the choices."""
        codes = {str(i): path.code(wire[str(i)]) for i, path in enumerate(self.paths) if str(i) in wire}
        counts, rest = [len(codes.get(str(i), ())) for i in range(len(self.paths))], wire.keys() - codes.keys()
        if len(set(counts)) == 1 and rest == {"all": {EVERY}, "losses": set()}.get(self.gradient):
            return codes | self._of_every(wire, codes["0"])
        if not codes or rest != ({CHOICE} if self.choice_bits else set()):
            raise ValueError(
                f"paths: got wire tensors {sorted(wire)}, expected some of {len(self.paths)} paths and their choice"
            )
        count, device = sum(counts), next(iter(codes.values())).device
        choice = torch.zeros(count, dtype=torch.int64, device=device)
        if self.choice_bits:
            choice = bottleneck.unpack(wire[CHOICE], self.choice_bits, count)[0].long()
        if not choice.is_meta and counts != (due := torch.bincount(choice, minlength=len(counts)).tolist()):
            raise ValueError(f"paths: got {counts} codes by path, expected {due} by the choices")
        return {**codes, CHOICE: choice, GATE: torch.ones(count, device=device)}

    def _of_every(self, wire: Tensors, code: torch.Tensor) -> Tensors:
        """The codes beside those of each path where every path has a code for every sample, as ``code`` has."""
        count, paths = len(code), len(self.paths)
        if EVERY not in wire:
            return {LOSSES: torch.full((count, paths), 1 / paths, device=code.device)}
        choice = bottleneck.unpack(wire[EVERY], self.choice_bits, count)[0].long()
        if not choice.is_meta and int(choice.max()) >= paths:
            raise ValueError(f"paths: got choice {int(choice.max())}, expected one of {paths} paths")
        return {EVERY: choice, GATE: (choice[:, None] == torch.arange(paths, device=code.device)).float()}

    def restore(self, codes: Tensors) -> Tensors:
        self.loss_weights = None
        if CHOICE not in codes:
            decoded = self._decoded([codes[str(i)] for i in range(len(self.paths))])
            if LOSSES in codes:
                self.loss_weights = codes[LOSSES].T.flatten() / len(codes[LOSSES])
                return {self.name: torch.cat(decoded)}
            weights = codes[GATE].T[..., None, None, None]
            return {self.name: (torch.stack(decoded) * weights).sum(0)}
        choice, gate = codes[CHOICE], codes[GATE]
        present = [i for i in range(len(self.paths)) if str(i) in codes]
        decoded = self._decoded([codes[str(i)] for i in present], present)
        restored = torch.zeros_like(decoded[0][:1]).repeat(len(choice), 1, 1, 1)
        for i, some in zip(present, decoded, strict=True):
            restored = restored.index_copy(0, _rows(choice, i, len(some)), some)
        return {self.name: restored * gate.view(-1, 1, 1, 1)}

    def _encoded(self, value: torch.Tensor, rows: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The codes of each path, for all samples of ``value`` or for its ``rows``; of a path without any, no code."""
        if self.nested:
            whole = self.paths[0].coders.encoder(value)
            codes = [whole[:, : path.channels] for path in self.paths]
            return codes if rows is None else [code[some] for code, some in zip(codes, rows, strict=True)]
        some = [value] * len(self.paths) if rows is None else [value[one] for one in rows]
        return [path.coders.encoder(one) if len(one) else one for path, one in zip(self.paths, some, strict=True)]

    def _decoded(self, codes: Sequence[torch.Tensor], numbers: Sequence[int] | None = None) -> list[torch.Tensor]:
        """What the decoders make of ``codes``, of all paths or of those with ``numbers``."""
        paths = self.paths if numbers is None else [self.paths[i] for i in numbers]
        if self.nested:
            wide = [path.widened(code) for path, code in zip(paths, codes, strict=True)]
            return list(paths[0].coders.decoder(torch.cat(wide)).split([len(code) for code in codes]))
        return [path.coders.decoder(code) for path, code in zip(paths, codes, strict=True)]

    def _choose(self, value: torch.Tensor) -> tuple[Tensors, torch.Tensor | None]:
        """The choice (N,) of each sample of ``value``; in training also what the gate learns from, and its loss."""
        self.scores = None
        if self.gate is not None and (self.training or not value.is_meta):
            self.scores = self.gate(value.detach() if self.weighs_losses else value, self._code_entropies(value))
        if not self.training:
            return {CHOICE: self._inferred(value)}, None
        if self.scores is None:
            choice = self._unseeing(value)
            self._tell(choice)
            return {CHOICE: choice}, None
        if self.weighs_losses:
            losses, fit = gating.fit_to_losses(self.scores)
            self._tell(self._unseeing(value) if value.is_meta else self.scores.argmax(1))
            return {LOSSES: losses}, fit
        warmth = gating.temperature(min(self._epoch, self._epochs - 1), self._epochs, *self.temperatures)
        soft = gating.gumbel_softmax(self.scores, gating.gumbel_noise(torch.rand_like(self.scores)), warmth)
        preferred = soft.argmax(1)
        choice = self._unseeing(value) if self._epoch < self.warm_up or value.is_meta else preferred
        self._tell(choice)
        kept = choice.to(soft.device)
        if self.gradient == "all":
            codes = {EVERY: choice, GATE: gating.one_hot(soft, kept)}
        else:
            codes = {CHOICE: choice, GATE: gating.straight_through(soft, kept)}
        if value.is_meta:
            return codes, None
        observed = gating.observed_shares(soft, preferred)
        loss = self.weight * gating.ratio_loss(observed, self.target.to(value.device), self.above_only)
        self.metrics["information"] = len(value) * gating.mutual_information(self.scores.detach().softmax(1))
        return codes, loss

    def _inferred(self, value: torch.Tensor) -> torch.Tensor:
        """The choice (N,) of each sample of ``value`` at inference."""
        if self.only is not None:
            return torch.full((len(value),), self.only, device="cpu" if value.is_meta else value.device)
        if self.scores is None or self.random_share is not None:
            return self._unseeing(value)
        if self.inference == "sampled":
            return (self.scores + gating.gumbel_noise(torch.rand_like(self.scores))).argmax(1)
        return gating.choose_paths(self.scores, self._limit(self.scores))

    def _limit(self, scores: torch.Tensor) -> float:
        if self.share is None:
            return self.threshold
        self._margins = torch.cat([self._margins, gating.margin(scores).cpu()])[-RECENT:]
        return gating.threshold_for(self._margins, self.share)

    def _unseeing(self, value: torch.Tensor) -> torch.Tensor:
        """A choice (N,) that keeps the shares and ignores the samples; in virtual time, the target's shares."""
        target = self.target.to("cpu" if value.is_meta else value.device)
        if self.training and not value.is_meta:
            drawn = torch.rand(1 if self._by_step else len(value), device=value.device)
            return gating.assign_paths(drawn, target).expand(len(value))
        share = self.share if value.is_meta else self.random_share
        if share is not None and not self.training:
            target = torch.cat([target.new_tensor([share]), target[1:] * (1 - share)])
        return gating.assign_paths(gating.evenly_spaced(len(value)).to(target.device), target)

    def _tell(self, choice: torch.Tensor) -> None:
        self.metrics = {f"path{i}": float((choice == i).sum()) for i in range(len(self.paths))}


def _rows(choice: torch.Tensor, number: int, count: int = 0) -> torch.Tensor:
    """The samples on path ``number``; ``count`` of them on the meta device."""
    return torch.arange(count, device="meta") if choice.is_meta else (choice == number).nonzero()[:, 0]


def _check(paths: Sequence[int], bits: int | None, target: Sequence[float], nested: bool) -> None:
    if not paths or min(paths) < 0 or len(paths) > 256:
        raise ValueError(f"paths {list(paths)}: one or more numbers of channels, 0 for no coders")
    if nested and (not all(paths) or max(paths) != paths[0]):
        raise ValueError(f"paths {list(paths)}: nested ones need coders, the most channels first")
    if bits is not None and not 1 <= bits <= 8:
        raise ValueError(f"{bits} bits: 1 to 8, or null for float32")
    if len(paths) > 1 and (len(target) != len(paths) - 1 or min(target) < 0 or sum(target) > 1):
        raise ValueError(f"target {list(target)}: a share for each of the {len(paths)} paths but the last")


def _check_gate(learned: bool, gradient: str, inference: str, share: float | None) -> None:
    for name, given, known in (
        ("gradient", gradient, ("smashed", "chosen", "all", "losses")),
        ("inference", inference, ("argmax", "sampled")),
    ):
        if given not in known:
            raise ValueError(f"{name} {given!r}, expected {', '.join(known[:-1])} or {known[-1]}")
        if given not in ("chosen", "argmax") and not learned:
            raise ValueError(f"{name} {given}: only of a learned gate")
    if share is not None and (not 0 <= share <= 1 or not learned):
        raise ValueError(f"share {share}: from 0 to 1, of samples among which a learned gate chooses")
    if inference == "sampled" and (share is not None or gradient == "losses"):
        raise ValueError("inference sampled: draws by the gate's probabilities; give no share, nor gradient losses")


def _check_hints(learned: bool, uncoded: bool, code_entropy: bool, exit_classes: int | None) -> None:
    if (code_entropy or exit_classes is not None) and not learned:
        raise ValueError("code_entropy and exit_classes: only of a learned gate")
    if uncoded:
        raise ValueError("code_entropy: needs a path with coders, and bits")
    if exit_classes is not None and exit_classes < 2:
        raise ValueError(f"exit_classes {exit_classes}: expected at least 2")
