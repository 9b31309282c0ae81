"""Compressors that DynSplit is compared with, for a boundary of one tensor: C3-SL, top-k and RandTopk.

C3-SL (Hsieh et al., 2022; DynSplit, related work) binds each sample to a key by circular convolution and adds
``ratio`` results to one vector of the same length. Correlation with a key restores its sample; each of the others adds
noise with the power of its values. Activations after a ReLU have a mean above 0, whose power is noise too; without the
mean, which both ends know, only the deviations from it are.
"""

import torch
from torch import nn

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage
from nodes.stages.bottleneck import pack, unpack

COUNT, KEPT, PLACES = "count", "kept", "places"
MEAN = "running mean"  # no value of a boundary has a name with a space
MOMENTUM = 0.1  # share of the batch's mean in the new running mean, as torch's batch norm


class CircularConvolution(Stage):
    """C3-SL: ``ratio`` samples cross as one, in float32. The keys are fixed buffers of the stage.

    Beyond its paper, ``centred``: what crosses are deviations from a running mean of the activations. In training the
    sender updates the mean and sends it with each batch; the receiver keeps the last one for inference, in which
    nothing more is sent.
    """

    def __init__(self, shapes: Tensors, ratio: int = 4, centred: bool = False) -> None:
        super().__init__(shapes)
        self.name, one = self.single_tensor()
        if ratio < 1:
            raise ValueError(f"ratio {ratio}, expected at least 1")
        self._shape = one.shape[1:]
        self.register_buffer("key", keys(ratio, one[0].numel()))
        self.key: torch.Tensor
        self.centred = centred
        for half in (self.sender, self.receiver) if centred else ():
            half.register_buffer("mean", torch.zeros(one[0].numel()))

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        flat, codes = values[self.name].flatten(1), {}
        if self.centred:
            mean = self.sender.get_buffer("mean")
            if self.training:
                mean.lerp_(flat.detach().mean(0), MOMENTUM)
                codes[MEAN] = mean.clone()
            flat = flat - mean
        count = torch.tensor([len(flat)], dtype=torch.int32)
        return codes | {self.name: bind(flat, self.key), COUNT: count}, None

    def decode(self, wire: Tensors) -> Tensors:
        """The codes. Raises ValueError for a running mean of another length than a sample."""
        length = self.key.shape[1]
        if MEAN in wire and (not self.centred or wire[MEAN].shape != (length,)):
            expected = f"{length} numbers" if self.centred else "none"
            raise ValueError(f"running mean: got {list(wire[MEAN].shape)}, expected {expected}")
        return wire

    def restore(self, codes: Tensors) -> Tensors:
        bound = codes[self.name]
        most = len(bound) * len(self.key)
        count = most if codes[COUNT].is_meta else min(int(codes[COUNT]), most)
        found = unbind(bound, self.key, count)
        if self.centred:
            mean = self.receiver.get_buffer("mean")
            found = found + (mean.copy_(codes[MEAN]) if MEAN in codes else mean)
        return {self.name: found.view(count, *self._shape)}


class TopK(Stage):
    """The ``share`` of each sample's values of largest magnitude crosses as float16, with one bit per position.

    With ``random`` above 0 it is RandTopk (Zheng et al., IJCAI 2023): in training each of the values that cross is,
    with that probability, one of the others instead, drawn evenly.
    """

    def __init__(self, shapes: Tensors, share: float = 0.1, random: float = 0.0) -> None:
        super().__init__(shapes)
        self.name, one = self.single_tensor()
        if not 0 < share <= 1:
            raise ValueError(f"share {share}, expected above 0 and at most 1")
        if not 0 <= random <= 1:
            raise ValueError(f"random {random}, expected 0 to 1")
        self.random = random
        self._shape = one.shape[1:]
        self._size = one[0].numel()
        self.kept = max(1, round(share * self._size))

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        value = values[self.name].flatten(1)
        places = value.detach().abs().topk(self.kept, dim=1).indices
        if self.random and self.training:
            places = exchanged(places, self._size, self.random)
        places = places.sort(dim=1).values
        return {KEPT: value.gather(1, places), PLACES: places}, None

    def encode(self, codes: Tensors) -> Tensors:
        marked = torch.zeros(len(codes[PLACES]), self._size, dtype=torch.uint8, device=codes[PLACES].device)
        marked = marked.scatter(1, codes[PLACES], 1)
        return {KEPT: codes[KEPT].half(), PLACES: pack(marked, 1)}

    def decode(self, wire: Tensors) -> Tensors:
        """The codes. Raises ValueError unless every sample marks as many positions as it has values."""
        marked = unpack(wire[PLACES], 1, self._size)
        if marked.is_meta:
            return {KEPT: wire[KEPT].float(), PLACES: torch.empty(wire[KEPT].shape, dtype=torch.int64, device="meta")}
        if wire[KEPT].shape != (len(marked), self.kept) or (marked.sum(1) != self.kept).any():
            raise ValueError(
                f"top-k: got values {list(wire[KEPT].shape)}, expected {self.kept} marked positions and values a sample"
            )
        return {KEPT: wire[KEPT].float(), PLACES: marked.nonzero()[:, 1].view(-1, self.kept)}

    def restore(self, codes: Tensors) -> Tensors:
        kept, places = codes[KEPT], codes[PLACES]
        flat = torch.zeros(len(kept), self._size, dtype=kept.dtype, device=kept.device).scatter(1, places, kept)
        return {self.name: flat.view(-1, *self._shape)}


def exchanged(places: torch.Tensor, size: int, share: float) -> torch.Tensor:
    """``places`` (N, k) of ``size``, of which each is with probability ``share`` another than these; all differ."""
    count, kept = places.shape
    order = torch.rand(count, size, device=places.device).scatter(1, places, -1.0).argsort(dim=1, descending=True)
    others = order[:, : min(kept, size - kept)]
    drawn = torch.rand(count, kept, device=places.device) < share
    drawn[:, others.shape[1] :] = False
    return torch.where(drawn, nn.functional.pad(others, (0, kept - others.shape[1])), places)


def keys(ratio: int, length: int) -> torch.Tensor:
    """(ratio, length) random keys, normal with variance 1 / length, of unit length: drawn from torch's generator."""
    return nn.functional.normalize(torch.randn(ratio, length) / length**0.5)


def bind(samples: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(N, D) -> (ceil(N / R), D): groups of R samples, each convolved with its row of ``key`` (R, D), added."""
    ratio, length = key.shape
    padded = nn.functional.pad(samples, (0, 0, 0, -len(samples) % ratio)).view(-1, ratio, length)
    bound: torch.Tensor = torch.fft.irfft((torch.fft.rfft(padded) * torch.fft.rfft(key)).sum(1), n=length)
    return bound


def unbind(bound: torch.Tensor, key: torch.Tensor, count: int) -> torch.Tensor:
    """The samples (``count``, D) given to ``bind``, as far as correlation with ``key`` restores them."""
    length = key.shape[1]
    spectrum = torch.fft.rfft(bound)[:, None] * torch.fft.rfft(key).conj()
    found: torch.Tensor = torch.fft.irfft(spectrum, n=length)
    return found.flatten(0, 1)[:count]
