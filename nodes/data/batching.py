"""Batches of pictures, determined by seed, source, epoch and batch number alone.

No state passes from one batch to the next, so a run that resumes at batch k gets the same batches.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch.nn import functional as F

from nodes.data.images import Bytes, Indices, Pictures, stratified
from nodes.data.partitioning import partition_iid
from nodes.data.picture_files import decode_now
from nodes.errors import DataError

PADDING = 4  # pixels
ORDER, AUGMENT = 1, 2  # separate the two random streams


def subset(pictures: Pictures, count: int | None, seed: int) -> Pictures:
    """``count`` of ``pictures``, each class keeping its share; all for None or a larger count.

    Picture files that are kept in memory are decoded now. Raises DataError that names all damaged ones.
    """
    if count is not None and count < 1:
        raise DataError(f"subset of {count} pictures, expected at least 1")
    if count is not None and count < len(pictures):
        pictures = pictures.select(stratified(pictures.labels, count, seed))
    decode_now(pictures.images, np.arange(len(pictures)))
    return pictures


def split_holdout(pictures: Pictures, count: int, seed: int) -> tuple[Pictures, Pictures]:
    """Split ``pictures`` into the rest and ``count`` held out, each class keeping its share in both."""
    if not 1 <= count < len(pictures):
        raise DataError(f"{count} of {len(pictures)} pictures held out, expected 1 to {len(pictures) - 1}")
    taken = stratified(pictures.labels, count, seed)
    return pictures.select(np.setdiff1d(np.arange(len(pictures)), taken)), pictures.select(taken)


def client_subset(pictures: Pictures, client: int, clients: int, seed: int) -> Pictures:
    """The random part of ``pictures`` of ``client`` of ``clients``, of the same size for each."""
    if clients == 1:
        return pictures
    return pictures.select(partition_iid(pictures.labels, clients, seed)[client][: len(pictures) // clients])


def batches(
    pictures: Pictures,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    augment: bool,
    indices: Indices | None = None,
    drop_last: bool = False,
    start: int = 0,
    source: int = 0,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch's batches from number ``start`` on: normalised float32 (B, 3, H, W) and labels int64 (B,).

    Tokens are int64 (B, T), and samples in float32, as they are.

    ``indices`` restricts them to a part of ``pictures``. The order depends on (seed, epoch, source), augmentation on
    (seed, epoch, batch number, source): several clients or UEs draw apart. ``drop_last`` drops a last batch that is
    smaller.
    """
    order = np.arange(len(pictures)) if indices is None else indices
    if shuffle:
        order = _generator(source, ORDER, seed, epoch).permutation(order)
    count = len(order) // batch_size if drop_last else math.ceil(len(order) / batch_size)
    for number in range(start, count):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        samples = pictures.images[chosen]
        labels = torch.from_numpy(pictures.labels[chosen])
        if isinstance(samples, torch.Tensor):
            generator = _generator(source, AUGMENT, seed, epoch, number) if augment else None
            yield _on_device(samples, generator, pictures), labels
            continue
        if samples.dtype != np.uint8:
            yield torch.from_numpy(samples), labels
            continue
        images = samples.transpose(0, 3, 1, 2)
        if augment:
            images = augmented(images, _generator(source, AUGMENT, seed, epoch, number))
        yield normalised(images, pictures), labels


def _generator(source: int, *purpose: int) -> np.random.Generator:
    """The generator of ``purpose`` at a source; the first draws as one does that is alone."""
    return np.random.default_rng((*purpose, source) if source else purpose)


def augmented(images: Bytes, generator: np.random.Generator) -> Bytes:
    """Random crops of padded pictures (B, 3, H, W), each mirrored left to right with probability 1/2.

    The padding is PADDING black pixels on every side. Draws, in this order: top and left of the crop, (2, B) in
    [0, 2·PADDING]; mirrored where a uniform number (B,) is below 1/2.
    """
    count, _, height, width = images.shape
    top, left, mirrored = _crops(generator, count)
    edge = (PADDING, PADDING)
    padded = np.pad(images, ((0, 0), (0, 0), edge, edge))
    crops = sliding_window_view(padded, (height, width), axis=(2, 3))  # (B, 3, 2·PADDING+1, 2·PADDING+1, H, W)
    result: Bytes = crops[np.arange(count), :, top, left]
    result[mirrored] = result[mirrored, :, :, ::-1]
    return result


def _crops(generator: np.random.Generator, count: int) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """Top, left and whether it is mirrored, of the crop of each of ``count`` pictures."""
    top, left = generator.integers(0, 2 * PADDING + 1, (2, count))
    return top, left, generator.random(count) < 0.5


def _on_device(samples: torch.Tensor, generator: np.random.Generator | None, pictures: Pictures) -> torch.Tensor:
    """What ``augmented`` and ``normalised`` make of uint8 (B, H, W, 3), computed where they are, without a wait."""
    if samples.dtype is not torch.uint8:
        return samples
    if generator is not None:
        samples = _cropped(samples, *_crops(generator, len(samples)))
    images = samples.permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (pictures.mean, pictures.std))
    factor, shift = (1 / (255 * std)).to(images.device), (mean / std).to(images.device)
    return images.float().mul_(factor).sub_(shift)


def _cropped(samples: torch.Tensor, *crops: NDArray[Any]) -> torch.Tensor:
    """The crops of padded ``samples`` (B, H, W, 3), all by one index into their pixels."""
    count, height, width, _ = samples.shape
    device = samples.device
    top, left, mirrored = (torch.from_numpy(one)[:, None].to(device, non_blocking=True) for one in crops)
    across = torch.arange(width, device=device)
    rows = top + torch.arange(height, device=device)  # (B, H)
    columns = left + torch.where(mirrored, width - 1 - across, across)  # (B, W)
    tall, wide = height + 2 * PADDING, width + 2 * PADDING
    rows += tall * torch.arange(count, device=device)[:, None]
    pixels = rows[:, :, None] * wide + columns[:, None]
    padded = F.pad(samples, (0, 0) + (PADDING,) * 4)
    return padded.view(-1, 3)[pixels.view(-1)].view(samples.shape)


def normalised(images: Bytes, pictures: Pictures) -> torch.Tensor:
    """uint8 (B, 3, H, W) as float32, (pixel / 255 - mean) / std per channel."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (pictures.mean, pictures.std))
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    return pixels.mul_(1 / (255 * std)).sub_(mean / std)
