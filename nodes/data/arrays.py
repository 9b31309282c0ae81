"""Readers of published files with many pictures: CIFAR, STL-10, idx and SVHN. An inconsistent file is a DataError.

Every reader takes the place, a folder or an archive, and the names of the classes. Sizes that a header declares are
checked against the file's size before anything is allocated.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodes.data.images import Bytes, Images, resize, stratified
from nodes.data.pickles import unpickle
from nodes.data.stored import Part, Stored, contents, locate
from nodes.errors import DataError

DEFLATE_RATIO = 1032  # upper bound of the compression ratio of deflate
CIFAR_BYTES = 3 * 32 * 32
DIGITS = tuple("0123456789")
DIGITS_TEST = 360  # of 1,797


class Cifar(NamedTuple):
    """Files of one of the CIFAR data sets; without endings they are pickles, else records of labels and pixels."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: tuple[str, str]  # file of the classes' names, one a line in .txt; their key in a pickle
    labels: str  # key of the labels
    label_bytes: int = 1  # of a record, the label that counts is the last

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10 = Cifar(_BATCHES, ("test_batch",), ("batches.meta", "label_names"), "labels")
CIFAR10_BINARY = Cifar(tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), ("batches.meta.txt", ""), "")
CIFAR100 = Cifar(("train",), ("test",), ("meta", "fine_label_names"), "fine_labels")
CIFAR100_BINARY = Cifar(("train.bin",), ("test.bin",), ("fine_label_names.txt", ""), "", 2)


def read_cifar(place: Path, classes: tuple[str, ...], *, cifar: Cifar) -> Stored:
    """A CIFAR data set in Python's or the binary version, a folder or a tar archive."""
    names, key = cifar.names
    found = contents(place, (*cifar.files, names))
    if missing := [name for name in cifar.files if name not in found]:
        raise DataError(f"no {missing[0]} in {place}; expected {', '.join(cifar.files)}")

    def part(files: tuple[str, ...]) -> Part:
        batches = [_cifar_batch(f"{place / name}", found[name], cifar) for name in files]
        pixels = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([labels for _, labels in batches])
        return Part(labels, place / files[0] if len(files) == 1 else place, len(pixels), lambda _: pixels)

    if names in found and len(stated := _texts(place / names, found[names], key)) == len(classes):
        classes = stated
    return Stored(part(cifar.train), part(cifar.test), classes, first_label=0)


def _cifar_batch(where: str, data: bytes, cifar: Cifar) -> tuple[Bytes, Any]:
    """Pixels (N, 3072), channel by channel, and labels (N,) of one file."""
    if where.endswith(".bin"):
        _whole(where, len(data), cifar.label_bytes + CIFAR_BYTES, "label bytes and 3x32x32 pixels a picture")
        records = np.frombuffer(data, np.uint8).reshape(-1, cifar.label_bytes + CIFAR_BYTES)
        return records[:, cifar.label_bytes :], records[:, cifar.label_bytes - 1]
    batch = _unpickled(where, data)
    pixels, labels = batch.get("data"), batch.get(cifar.labels)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (CIFAR_BYTES,)):
        raise DataError(f"{where}: expected an array data of uint8 (N, {CIFAR_BYTES})")
    if not isinstance(labels, list | np.ndarray) or not all(isinstance(label, int | np.integer) for label in labels):
        raise DataError(f"{where}: expected a list {cifar.labels} of numbers")
    if len(labels) != len(pixels):
        raise DataError(f"{where}: {len(labels):,} labels for {len(pixels):,} pictures; expected one each")
    return pixels, np.array(labels, np.int64)


def _unpickled(where: object, data: bytes) -> dict[str, Any]:
    """The dict in a pickle, with its keys as text: Python 2 wrote them as bytes."""
    try:
        found = unpickle(data)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected a dict")
    return {_text(key): value for key, value in found.items()}


def _texts(where: Path, data: bytes, key: str) -> tuple[str, ...]:
    if where.suffix == ".txt":
        return tuple(_text(data).strip().splitlines())
    listed = _unpickled(where, data).get(key)
    return tuple(map(_text, listed)) if isinstance(listed, list) else ()


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_stl10(folder: Path, classes: tuple[str, ...]) -> Stored:
    """STL-10's labelled binaries: 3x96x96 mapped pixels a picture, channels column by column; labels from 1."""

    def part(name: str) -> Part:
        pixels, labels = locate(folder, f"{name}_X.bin"), locate(folder, f"{name}_y.bin")
        _whole(pixels, pixels.stat().st_size, 3 * 96 * 96, "3x96x96 pixels a picture")
        _whole(labels, labels.stat().st_size, 1, "one label byte a picture")
        images = np.memmap(pixels, np.uint8, mode="r").view(np.ndarray).reshape(-1, 3, 96, 96)
        return Part(np.fromfile(labels, np.uint8), labels, len(images), lambda _: images.transpose(0, 3, 2, 1))

    return Stored(part("train"), part("test"), classes, first_label=1)


def read_idx(folder: Path, classes: tuple[str, ...]) -> Stored:
    """MNIST's and FashionMNIST's four idx files, packed (.gz) or not; grey pictures get three channels."""

    def part(name: str) -> Part:
        files = (f"{name}-{kind}-ubyte" for kind in ("images?idx3", "labels?idx1"))
        images, labels = (locate(folder, file, f"{file}.gz") for file in files)
        (count, *_) = _idx_shape(images, 3)
        return Part(_idx(labels, 1), labels, count, lambda _: three_channels(_idx(images, 3)))

    return Stored(part("train"), part("t10k"), classes)


def _opened(path: Path) -> AbstractContextManager[BinaryIO | gzip.GzipFile]:
    return gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")


def _idx_shape(path: Path, rank: int) -> tuple[int, ...]:
    """Sizes in the header of one idx file of bytes: the magic number 0, 0, 8, rank; the sizes (u32, big-endian)."""
    try:
        with _opened(path) as file:
            head = file.read(4 + 4 * rank)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable idx file: {error}") from None
    if len(head) < 4 + 4 * rank or head[:4] != bytes([0, 0, 8, rank]):
        raise DataError(f"{path}: magic number {head[:4].hex()}, expected 0000080{rank} (idx, rank {rank})")
    shape = struct.unpack(f">{rank}I", head[4:])
    if math.prod(shape) > path.stat().st_size * (DEFLATE_RATIO if path.suffix == ".gz" else 1):
        raise DataError(f"{path}: declares {by(shape)} bytes, more than the file can hold")
    return shape


def _idx(path: Path, rank: int) -> Bytes:
    shape = _idx_shape(path, rank)
    size = math.prod(shape)
    try:
        with _opened(path) as file:
            data = file.read(4 + 4 * rank + size + 1)[4 + 4 * rank :]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable idx file: {error}") from None
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(f"{path}: expected {by(shape)} = {size:,} bytes after the header, found {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_svhn(folder: Path, classes: tuple[str, ...]) -> Stored:
    """SVHN's cropped digits: X (32, 32, 3, N) and y (N, 1) in Matlab's files; label 10 is the digit 0."""
    train, test = (_svhn_part(locate(folder, f"{part}_32x32.mat")) for part in ("train", "test"))
    return Stored(train, test, classes, first_label=0)


def _svhn_part(path: Path) -> Part:
    from scipy import io  # noqa: PLC0415

    def loaded(read: Callable[..., Any], **options: Any) -> Any:
        try:
            return read(path, **options)
        except Exception as error:  # scipy raises errors of all kinds for damaged files
            raise DataError(f"{path}: expected a Matlab file that can be read: {error}") from None

    declared = {name: (shape, kind) for name, shape, kind in loaded(io.whosmat)}
    pixels, labels = declared.get("X", ((), "")), declared.get("y", ((), ""))
    if pixels[0][:3] != (32, 32, 3) or len(pixels[0]) != 4 or pixels[1] != "uint8":
        raise DataError(f"{path}: X is {pixels[1]} {pixels[0]}, expected uint8 (32, 32, 3, N)")
    if labels[0] != (pixels[0][3], 1):
        raise DataError(f"{path}: y is {labels[1]} {labels[0]}, expected ({pixels[0][3]}, 1)")
    if math.prod(pixels[0]) > DEFLATE_RATIO * path.stat().st_size:
        raise DataError(f"{path}: declares {by(pixels[0])} bytes, more than the file can hold")
    numbers = loaded(io.loadmat, variable_names=["y"])["y"].reshape(-1).astype(np.int64)
    if len(wrong := numbers[(numbers < 1) | (numbers > 10)]):
        raise DataError(f"{path}: y: label {wrong[0]}, expected 1 to 10")

    def read(_side: int) -> Images:
        found: Bytes = loaded(io.loadmat, variable_names=["X"])["X"]
        return found.transpose(3, 0, 1, 2)

    return Part(numbers % 10, path, pixels[0][3], read)


def _whole(where: object, size: int, record_bytes: int, what: str) -> None:
    if not size or size % record_bytes:
        raise DataError(f"{where}: {size:,} bytes, expected a multiple of {record_bytes:,} ({what})")


def three_channels(images: Bytes) -> Bytes:
    """(N, H, W), (N, H, W, 1) or (N, H, W, 3) as (N, H, W, 3); grey is repeated without a copy."""
    coloured = images if images.ndim == 4 else images[..., None]
    return np.broadcast_to(coloured, (*coloured.shape[:3], 3))


def by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def read_digits() -> Stored:
    """scikit-learn's 8x8 digits, 0 to 16 scaled to 0 to 255, bilinearly to a side; three equal channels."""
    package = find_spec("sklearn")  # not imported, which takes longer than many a training
    assert package is not None
    assert package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = table[:, -1].astype(np.int64)
    test = np.isin(np.arange(len(labels)), stratified(labels, DIGITS_TEST, seed=0))

    def part(chosen: NDArray[np.bool_]) -> Part:
        return Part(labels[chosen], "digits", len(labels[chosen]), partial(resize, images[chosen]))

    return Stored(part(~test), part(test), DIGITS, first_label=0)
