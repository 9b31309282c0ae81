"""Batches against an oracle of single pixels, resumed runs against whole ones; what partitions promise."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from nodes.data.batching import AUGMENT, batches, subset
from nodes.data.images import Pictures, Resident, Selected
from nodes.data.partitioning import partition_dirichlet, partition_iid
from nodes.errors import DataError

LABELS = np.random.default_rng(5).integers(0, 10, 500)


@pytest.fixture
def pictures() -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 10, 3)).astype(np.uint8)
    return Pictures(images, np.arange(50) % 7, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def oracle(pictures: Pictures, chosen: list[int], draws: np.random.Generator | None) -> np.ndarray:
    """One picture and one pixel at a time."""
    _, height, width, _ = pictures.images.shape
    top, left, mirrored = np.full(50, 4), np.full(50, 4), np.zeros(50)
    if draws is not None:
        top, left = draws.integers(0, 9, (2, len(chosen)))
        mirrored = draws.random(len(chosen)) < 0.5
    result = np.empty((len(chosen), 3, height, width))
    for place, index in enumerate(chosen):
        for row in range(height):
            for column in range(width):
                y = row + top[place] - 4
                x = (width - 1 - column if mirrored[place] else column) + left[place] - 4
                inside = 0 <= y < height and 0 <= x < width
                for channel in range(3):
                    value = pictures.images[index : index + 1][0, y, x, channel] if inside else 0
                    mean, std = pictures.mean[channel], pictures.std[channel]
                    result[place, channel, row, column] = (value / 255 - mean) / std
    return result


def equal(some: Iterator[tuple[torch.Tensor, ...]], others: Iterator[tuple[torch.Tensor, ...]]) -> bool:
    pairs = list(zip(some, others, strict=True))
    return bool(pairs) and all(torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in pairs)


@pytest.mark.parametrize("augment", [False, True])
def test_against_one_picture_at_a_time(pictures: Pictures, augment: bool) -> None:
    found = batches(pictures, 20, seed=3, epoch=2, shuffle=False, augment=augment)
    for number, (images, labels) in enumerate(found):
        chosen = list(range(50))[number * 20 : number * 20 + 20]
        draws = np.random.default_rng((AUGMENT, 3, 2, number)) if augment else None
        assert labels.tolist() == [index % 7 for index in chosen]
        assert (images.dtype, labels.dtype, images.is_contiguous()) == (torch.float32, torch.int64, True)
        assert np.abs(images.numpy() - oracle(pictures, chosen, draws)).max() < 1e-6


@pytest.mark.parametrize("start", [1, 2, 4, 5])
def test_resumed_run_sees_the_same_batches(pictures: Pictures, start: int) -> None:
    def run(start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(batches(pictures, 10, seed=1, epoch=4, shuffle=True, augment=True, start=start))

    whole, resumed = run(0), run(start)
    assert len(resumed) == 5 - start
    assert start == 5 or equal(iter(whole[start:]), iter(resumed))


def test_seed_and_epoch_change_order_and_crops(pictures: Pictures) -> None:
    def run(seed: int, epoch: int, shuffle: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return batches(pictures, 50, seed=seed, epoch=epoch, shuffle=shuffle, augment=not shuffle)

    for shuffle in (False, True):
        assert equal(run(1, 1, shuffle), run(1, 1, shuffle))
        assert not equal(run(1, 1, shuffle), run(1, 2, shuffle))
        assert not equal(run(1, 1, shuffle), run(2, 1, shuffle))


def test_neither_global_generators_nor_stored_pictures_are_touched(pictures: Pictures) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(batches(pictures, 50, seed=1, epoch=1, shuffle=True, augment=True))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(9)
    np.random.seed(9)
    assert equal(iter(first), batches(pictures, 50, seed=1, epoch=1, shuffle=True, augment=True))
    before = pictures.images[:].copy()
    for images, labels in batches(pictures, 50, seed=0, epoch=0, shuffle=False, augment=True):
        images.zero_()
        labels.zero_()
    assert (pictures.images[:] == before).all()
    assert pictures.labels.max() == 6


def test_an_epoch_takes_every_picture_once_or_those_of_its_indices(pictures: Pictures) -> None:
    plain = Pictures(pictures.images, np.arange(50), pictures.mean, pictures.std)

    def taken(size: int, shuffle: bool, **limits: object) -> list[list[int]]:
        drawn = batches(plain, size, seed=0, epoch=0, shuffle=shuffle, augment=False, **limits)
        return [labels.tolist() for _, labels in drawn]

    seen = taken(16, shuffle=True)
    order = list(chain(*seen))
    assert [len(labels) for labels in seen] == [16, 16, 16, 2]
    assert sorted(order) == list(range(50)) != order
    assert len(taken(16, shuffle=True, drop_last=True)) == 3
    part = np.array([40, 3, 17])
    assert taken(2, shuffle=False, indices=part) == [[40, 3], [17]]
    assert sorted(taken(3, shuffle=True, indices=part)[0]) == [3, 17, 40]


def test_subset_keeps_shares_and_pixels(pictures: Pictures) -> None:
    part = subset(pictures, 14, seed=3)
    assert np.bincount(part.labels).tolist() == [2] * 7
    stored = pictures.images[:]
    for image, label in zip(part.images[:], part.labels, strict=True):
        origin = np.flatnonzero((stored == image).all((1, 2, 3)))
        assert pictures.labels[origin].tolist() == [label]
    assert (subset(pictures, 14, seed=3).images[:] == part.images[:]).all()
    assert (subset(pictures, 14, seed=4).images[:] != part.images[:]).any()
    assert subset(pictures, None, seed=0) is pictures
    assert subset(pictures, 51, seed=0) is pictures
    with pytest.raises(DataError, match="subset of 0"):
        subset(pictures, 0, seed=0)


def test_selected_indexes_like_an_array() -> None:
    stored = np.arange(24, dtype=np.uint8).reshape(8, 1, 1, 3)
    order = np.array([5, 1, 7, 0])
    view, array = Selected(stored, order), stored[order]
    assert (len(view), view.shape) == (4, (4, 1, 1, 3))
    for key in (slice(1, 3), slice(None, None, -1), np.array([-1, 0, 0]), np.array([True, False, True, False])):
        assert (view[key] == array[key]).all()
    with pytest.raises(IndexError):
        view[np.array([4])]


def whole(parts: list[np.ndarray]) -> bool:
    """Every index exactly once."""
    return sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))


def skew(parts: list[np.ndarray]) -> float:
    """Mean over clients of the share of a client's commonest class."""
    return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))


def test_iid_is_even_random_and_whole() -> None:
    parts = partition_iid(LABELS, 7, seed=1)
    assert whole(parts)
    assert {len(part) for part in parts} == {71, 72}
    assert [part.tolist() for part in parts] == [part.tolist() for part in partition_iid(LABELS, 7, seed=1)]
    assert parts[0].tolist() != partition_iid(LABELS, 7, seed=2)[0].tolist()
    assert skew(parts) < 0.25


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 1e6])
def test_dirichlet_is_whole_deterministic_and_leaves_nobody_out(alpha: float) -> None:
    parts, again, other = (partition_dirichlet(LABELS, 20, alpha, seed=seed, least=3) for seed in (4, 4, 5))
    assert whole(parts)
    assert min(len(part) for part in parts) >= 3
    assert all((part == same).all() for part, same in zip(parts, again, strict=True))
    assert any(part.tolist() != differing.tolist() for part, differing in zip(parts, other, strict=True))


def test_dirichlet_is_more_skewed_for_a_smaller_alpha() -> None:
    skews = [skew(partition_dirichlet(LABELS, 5, alpha, seed=0)) for alpha in (0.05, 1.0, 1e5)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.5
    even = partition_dirichlet(LABELS, 5, 1e7, seed=0)
    for label in range(10):
        counts = [np.count_nonzero(LABELS[part] == label) for part in even]
        assert max(counts) - min(counts) <= 2


def test_partitions_that_cannot_be() -> None:
    with pytest.raises(DataError, match="500 pictures for 501 clients"):
        partition_iid(LABELS, 501, seed=0)
    with pytest.raises(DataError, match="at least 51"):
        partition_dirichlet(LABELS, 10, 1.0, seed=0, least=51)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="alpha"):
            partition_dirichlet(LABELS, 10, alpha, seed=0)
    assert whole(partition_dirichlet(LABELS, 1, 0.5, seed=0))
    assert [len(part) for part in partition_dirichlet(LABELS, 10, 0.01, seed=0, least=50)] == [50] * 10


@pytest.mark.parametrize("augment", [False, True])
def test_pictures_that_stay_on_a_device_make_the_same_batches(augment):
    generator = np.random.default_rng(0)
    bytes_of = generator.integers(0, 256, (30, 12, 10, 3), dtype=np.uint8)
    here = Pictures(bytes_of, np.arange(30) % 7, (0.5, 0.4, 0.3), (0.25, 0.2, 0.21))
    there = replace(here, images=Resident(here.images, torch.device("cpu")))
    settings = {"seed": 3, "epoch": 2, "shuffle": True, "augment": augment}
    pairs = list(zip(batches(here, 8, **settings), batches(there, 8, **settings), strict=True))
    assert len(pairs) == 4
    for (pictures, labels), (prepared, same) in pairs:
        assert torch.equal(pictures, prepared)
        assert torch.equal(labels, same)
