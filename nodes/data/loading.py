"""Loading of the data of a job: its data set, cut to the requested samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nodes.data.batching import subset
from nodes.data.datasets import SYNTHETIC, SYNTHETIC_SEQUENCES, load_dataset
from nodes.data.images import SYNTHETIC_TOKENS, Dataset, Indices, blank, drawn_tokens, token_data
from nodes.data.npz import loaded
from nodes.errors import DataError
from nodes.files import cached_reading
from nodes.spec.job import Job
from nodes.spec.service import Service


def load_data(job: Job | Service) -> Dataset:
    """The data set of ``job`` with the requested samples; blank pictures for "none". Raises DataError."""
    spec = job.data
    if spec.name == "none":
        return blank(spec.train_samples or 0, spec.test_samples or 0, job.classes, job.input)
    directory = None if spec.directory is None else Path(spec.directory)
    if job.input_type == "int64":
        if spec.augment:
            raise DataError(f"{spec.name}: augment crops and mirrors pictures; tokens have neither")
        return _cut(_tokens(spec.name, directory, job.input_shape[-1], job.classes), job)
    data = load_dataset(spec.name, directory, job.input_shape[-1])
    return _cut(data, job)


@cached_reading
def token_range(name: str, directory: Path | None) -> tuple[int, int]:
    """The least and the largest token of a resolved data set of sequences. Raises DataError."""
    if name == SYNTHETIC:
        return 0, SYNTHETIC_TOKENS - 1
    data = load_dataset(name, directory)
    parts = [part.images[:] for part in (data.train, data.test)]
    return min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)


def _cut(data: Dataset, job: Job | Service) -> Dataset:
    train, test = (
        subset(part, count, job.seed)
        for part, count in ((data.train, job.data.train_samples), (data.test, job.data.test_samples))
    )
    return replace(data, train=train, test=test)


def _tokens(name: str, directory: Path | None, length: int, classes: int) -> Dataset:
    """Sequences of ``length`` tokens: drawn ones for "tokens", or for ``npz:NAME`` those of NAME.npz."""
    if name == SYNTHETIC:
        parts = [drawn_tokens(count, length, classes, seed) for seed, count in enumerate(SYNTHETIC_SEQUENCES)]
    else:
        path = (directory or Path()) / f"{name.removeprefix('npz:')}.npz"
        parts = [_read(path, part, length, classes) for part in ("train", "test")]
    return token_data(name, tuple(map(str, range(classes))), parts)


def _read(path: Path, part: str, length: int, classes: int) -> tuple[Any, Indices]:
    try:
        tokens, labels = loaded(path, f"x_{part}"), loaded(path, f"y_{part}").reshape(-1)
    except DataError as error:
        raise DataError(f"{error}; expected the arrays x_train, y_train, x_test and y_test") from None
    if tokens.dtype.kind not in "iu" or tokens.shape != (len(labels), length) or not len(labels):
        raise DataError(
            f"{path}: x_{part} is {tokens.dtype} {tokens.shape}, expected integers ({len(labels)}, {length})"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path}: y_{part} has other values than the classes 0 to {classes - 1}")
    return tokens.astype(np.int64), labels.astype(np.int64)
