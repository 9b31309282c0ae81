"""Labelled pictures with pixels in memory, in a mapped file, or in picture files decoded on use."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.errors import DataError
from nodes.spec.job import InputSpec

STATISTICS_PICTURES = 1024  # training pictures at most for mean and standard deviation
MOST_RESIDENT = 8 << 30  # numbers of pictures on a GPU, where they are kept
SYNTHETIC_TOKENS = 256  # different ones in drawn sequences

Indices = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Colour = tuple[float, float, float]
NO_COLOUR: Colour = (0.0, 0.0, 0.0)  # of tokens


class AbsentError(DataError):
    """None of a data set's files exist."""


class Images(Protocol):
    """uint8 pictures (N, H, W, 3), indexed by a slice or an array of indices or booleans."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice | Indices, /) -> Any: ...  # Bytes, or a tensor where they are ``Resident``


@dataclass(frozen=True)
class Pictures:
    """Pictures and labels; ``mean`` and ``std`` of pixels in [0, 1] normalise them per channel.

    Sequences of tokens, int64 (N, T), and samples in float32 are ``images`` too; nothing normalises them.
    """

    images: Images
    labels: Indices
    mean: Colour
    std: Colour

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Indices) -> "Pictures":
        """The pictures at ``indices``, in that order; nothing is copied."""
        return replace(self, images=Selected(self.images, indices), labels=self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set; ``name`` is its name in records."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of a model's input for one picture: (3, H, W)."""
        _, height, width, channels = self.train.images.shape
        return channels, height, width


def blank(train: int, test: int, classes: int, sample: InputSpec) -> Dataset:
    """Black pictures, or zeros like ``sample``; they take no memory. For runs that measure only times and bytes."""
    channels, *sides = sample.shape
    picture = sample.dtype == "float32" and channels == 3 and len(sides) == 2
    shape, dtype = ((*sides, 3), "uint8") if picture else (sample.shape, sample.dtype)
    sets = [
        Pictures(
            np.broadcast_to(np.zeros((), dtype), (count, *shape)),
            np.arange(count) % classes,
            mean=NO_COLOUR,
            std=(1.0, 1.0, 1.0),
        )
        for count in (train, test)
    ]
    return Dataset("none", tuple(str(number) for number in range(classes)), *sets)


def drawn_tokens(count: int, length: int, classes: int, seed: int) -> tuple[Indices, Indices]:
    """Random tokens below SYNTHETIC_TOKENS; one in four of a sequence is of its class, equal to it modulo classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    tokens = generator.integers(0, SYNTHETIC_TOKENS - classes, (count, length))
    marked = generator.random((count, length)) < 0.25
    return np.where(marked, tokens - tokens % classes + labels[:, None], tokens), labels


def token_data(name: str, classes: tuple[str, ...], parts: Iterable[tuple[Any, Indices]]) -> Dataset:
    """The data set of (sequences (N, T), labels (N,)) for training and tests."""
    train, test = (Pictures(tokens, labels, NO_COLOUR, NO_COLOUR) for tokens, labels in parts)
    return Dataset(name, classes, train, test)


class Lazy(ABC):
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | Indices, /) -> Bytes:
        return self._take(np.arange(len(self))[key])

    @abstractmethod
    def _take(self, indices: Indices) -> Bytes:
        """The pictures at ``indices``, each in [0, N): (B, H, W, 3)."""


class Selected(Lazy):
    """The pictures of ``images`` at ``indices``, in that order, without a copy."""

    def __init__(self, images: Images, indices: Indices) -> None:
        self.images, self.indices = images, indices
        self.shape = (len(indices), *images.shape[1:])

    def _take(self, indices: Indices) -> Bytes:
        taken: Bytes = self.images[self.indices[indices]]
        return taken


class Resized(Lazy):
    """The pictures of ``images``, scaled by ``resize``."""

    def __init__(self, images: Images, side: int) -> None:
        self._images, self._side = images, side
        self.shape = (len(images), side, side, 3)

    def _take(self, indices: Indices) -> Bytes:
        return resize(self._images[indices], self._side)


class Resident:
    """All of ``images`` in the memory of ``device``, where batches of them are taken and prepared."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.shape = images.shape
        self._pixels = torch.from_numpy(np.ascontiguousarray(images[:])).to(device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | Indices, /) -> torch.Tensor:
        if isinstance(key, slice):
            return self._pixels[key]
        return self._pixels[torch.from_numpy(key).to(self._pixels.device, non_blocking=True)]


def resident(pictures: Pictures, device: torch.device) -> Pictures:
    """``pictures`` on ``device`` if that is a GPU and they are not too many."""
    if device.type != "cuda" or math.prod(pictures.images.shape) > MOST_RESIDENT:
        return pictures
    return replace(pictures, images=Resident(pictures.images, device))


def resize(images: Bytes, side: int) -> Bytes:
    """The centre squares of (B, H, W, 3), scaled bilinearly (antialiased) to (B, side, side, 3)."""
    height, width = images.shape[1:3]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    cut = np.ascontiguousarray(images[:, top : top + square, left : left + square].transpose(0, 3, 1, 2))
    if square == side or not len(cut):
        scaled = torch.from_numpy(cut).reshape(-1, 3, side, side)
    else:
        pixels = torch.from_numpy(cut).float()
        scaled = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    array: Bytes = scaled.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return array


def stratified(labels: Indices, count: int, seed: int) -> Indices:
    """``count`` sorted indices that keep each class's share, by largest remainder."""
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    quota[np.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(members == index))[:take] for index, take in enumerate(quota)]
    return np.sort(np.concatenate(chosen))


def statistics(images: Images) -> tuple[Colour, Colour]:
    """Mean and standard deviation a channel, pixels in [0, 1], over STATISTICS_PICTURES evenly spaced pictures."""
    count = min(len(images), STATISTICS_PICTURES)
    pixels = images[np.linspace(0, len(images) - 1, count).astype(np.int64)].reshape(-1, 3)
    mean, std = pixels.mean(0) / 255, np.maximum(pixels.std(0), 1) / 255
    return (mean[0].item(), mean[1].item(), mean[2].item()), (std[0].item(), std[1].item(), std[2].item())
