"""Readers of published files with many pictures, one per layout. An inconsistent file is a DataError.

Every reader takes the location, the names of the classes and a side (unused here: the files fix it). Sizes that a
header declares are checked against the file's size before anything is allocated.
"""

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodes.data.images import Bytes, Images, Indices
from nodes.errors import DataError

DEFLATE_RATIO = 1032  # upper bound of the compression ratio of deflate
NPZ_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
NAME_CHARACTERS = 100
CIFAR_RECORD = np.dtype([("label", np.uint8), ("pixels", np.uint8, (3, 32, 32))])


class DatasetPart(NamedTuple):
    """One part of a data set: uint8 (N, H, W, 3) and int64 (N,)."""

    images: Images
    labels: Indices


class Stored(NamedTuple):
    """The result of a reader."""

    name: str | None  # None: the files do not name the data set
    classes: tuple[str, ...]
    train: DatasetPart
    test: DatasetPart


def read_cifar10(folder: Path, classes: tuple[str, ...], _side: int) -> Stored:
    """CIFAR-10's binary version: records of one label byte and 3x32x32 pixels, channel by channel."""

    def split(names: Sequence[str]) -> DatasetPart:
        records = [_cifar_records(folder / name, classes) for name in names]
        pixels = np.concatenate([part["pixels"] for part in records])
        labels = np.concatenate([part["label"] for part in records])
        return DatasetPart(pixels.transpose(0, 2, 3, 1), labels.astype(np.int64))

    return Stored(None, classes, split([f"data_batch_{n}.bin" for n in range(1, 6)]), split(["test_batch.bin"]))


def _cifar_records(path: Path, classes: tuple[str, ...]) -> NDArray[np.void]:
    _whole(path, CIFAR_RECORD.itemsize, "one label byte and 3x32x32 pixels a picture")
    records = np.fromfile(path, CIFAR_RECORD)
    _checked_labels(records["label"], len(records), len(classes), path)
    return records


def read_stl10(folder: Path, classes: tuple[str, ...], _side: int) -> Stored:
    """STL-10's labelled binaries: 3x96x96 mapped pixels a picture, channels column by column; labels from 1."""

    def split(part: str) -> DatasetPart:
        pixels, labels = folder / f"{part}_X.bin", folder / f"{part}_y.bin"
        _whole(pixels, 3 * 96 * 96, "3x96x96 pixels a picture")
        _whole(labels, 1, "one label byte a picture")
        images = np.memmap(pixels, np.uint8, mode="r").view(np.ndarray).reshape(-1, 3, 96, 96)
        numbers = np.fromfile(labels, np.uint8).astype(np.int64) - 1
        checked = _checked_labels(numbers, len(images), len(classes), labels, first=1)
        return DatasetPart(images.transpose(0, 3, 2, 1), checked)

    return Stored(None, classes, split("train"), split("test"))


def read_idx(folder: Path, classes: tuple[str, ...], _side: int) -> Stored:
    """MNIST's and FashionMNIST's four idx files, packed (.gz) or not; grey pictures get three channels."""

    def split(part: str) -> DatasetPart:
        images = _idx(folder, f"{part}-images-idx3-ubyte", rank=3)
        numbers = _idx(folder, f"{part}-labels-idx1-ubyte", rank=1)
        where = folder / f"{part}-labels-idx1-ubyte"
        return DatasetPart(_three_channels(images), _checked_labels(numbers, len(images), len(classes), where))

    return Stored(None, classes, split("train"), split("t10k"))


def _idx(folder: Path, name: str, rank: int) -> Bytes:
    """One idx file of bytes: the magic number 0, 0, 8, rank; its sizes (u32, big-endian); the bytes."""
    path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            head = file.read(4 + 4 * rank)
            if len(head) < 4 + 4 * rank or head[:4] != bytes([0, 0, 8, rank]):
                raise DataError(f"{path}: magic number {head[:4].hex()}, expected 0000080{rank} (idx, rank {rank})")
            shape = struct.unpack(f">{rank}I", head[4:])
            size = math.prod(shape)
            if size > path.stat().st_size * (DEFLATE_RATIO if packed else 1):
                raise DataError(f"{path}: declares {_by(shape)} bytes, more than the file can hold")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable idx file: {error}") from None
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(f"{path}: expected {_by(shape)} = {size:,} bytes after the header, found {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_npz(path: Path, classes: tuple[str, ...], _side: int) -> Stored:
    """MedMNIST's layout, with a class for every label if ``classes`` is empty. Validation pictures are not used.

    The data set's name is that of an array ``name``, else the file's.
    """
    headers = npz_headers(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in (*NPZ_ARRAYS, "name") if key in headers}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected arrays that can be read: {error}") from None
    if not classes:
        highest = max(int(found[f"{part}_labels"].max()) for part in ("train", "test"))
        if highest >= len(found["train_labels"]):
            raise DataError(f"{path}: label {highest}, expected fewer classes than training pictures")
        classes = tuple(str(number) for number in range(highest + 1))

    def split(part: str) -> DatasetPart:
        images, labels = found[f"{part}_images"], found[f"{part}_labels"].reshape(-1)
        where = f"{path}: {part}_labels"
        return DatasetPart(_three_channels(images), _checked_labels(labels, len(images), len(classes), where))

    return Stored(_npz_name(path, found), classes, split("train"), split("test"))


def npz_name(path: Path) -> str:
    """The name of the data set in ``path`` for records. Raises DataError."""
    with np.load(path, allow_pickle=False) as arrays:
        return _npz_name(path, {"name": arrays["name"]} if "name" in npz_headers(path) else {})


def _npz_name(path: Path, found: Mapping[str, Any]) -> str:
    name = str(found["name"].item()) if "name" in found else path.stem
    if not name or not name.isprintable():
        raise DataError(f"{path}: name is {name!r}, expected printable characters")
    return name


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    """Checked shapes and dtypes of the arrays that ``read_npz`` reads, from their headers alone."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for key in (*NPZ_ARRAYS, "name"):
                if key in members:
                    headers[key] = _npy_header(archive, members[key])
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected an npz in MedMNIST's layout: {error}") from None
    _check_npz(path, headers)
    return headers


def _npy_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    with archive.open(info) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        declared = math.prod(shape) * dtype.itemsize + file.tell()
    possible = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects")
    if declared != info.file_size or declared > possible:
        raise ValueError(f"{info.filename} declares {declared:,} bytes, more or fewer than it holds")
    return shape, dtype


def _check_npz(path: Path, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]) -> None:
    if missing := [key for key in NPZ_ARRAYS if key not in headers]:
        raise DataError(f"{path}: no array {missing[0]}; expected {', '.join(NPZ_ARRAYS)}")
    for key in NPZ_ARRAYS:
        shape, dtype = headers[key]
        if key.endswith("images"):
            fits = dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))
            wanted = "uint8 (N, H, W) or (N, H, W, 3)"
        else:
            fits = dtype.kind in "iu" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
            wanted = "integers (N,) or (N, 1)"
        if not fits or 0 in shape:
            raise DataError(f"{path}: {key} is {dtype} {shape}, expected {wanted}")
    train, test = (headers[key][0][1:3] for key in ("train_images", "test_images"))
    if train != test:
        raise DataError(f"{path}: train_images of {_by(train)}, test_images of {_by(test)}; expected one size")
    shape, dtype = headers.get("name", ((), np.dtype("U1")))
    if shape or dtype.kind != "U" or dtype.itemsize > 4 * NAME_CHARACTERS:
        raise DataError(f"{path}: name is {dtype} {shape}, expected one string of at most {NAME_CHARACTERS}")


def _whole(path: Path, record_bytes: int, what: str) -> None:
    size = path.stat().st_size
    if not size or size % record_bytes:
        raise DataError(f"{path}: {size:,} bytes, expected a multiple of {record_bytes:,} ({what})")


def _checked_labels(labels: NDArray[np.integer], pictures: int, classes: int, where: object, first: int = 0) -> Indices:
    """``labels``, counted from 0, as int64; ``first`` is the file's first label, for messages."""
    if len(labels) != pictures:
        raise DataError(f"{where}: {len(labels):,} labels for {pictures:,} pictures; expected one each")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(f"{where}: label {int(wrong[0]) + first}, expected {first} to {classes - 1 + first}")
    return labels.astype(np.int64)


def _three_channels(images: Bytes) -> Bytes:
    """(N, H, W), (N, H, W, 1) or (N, H, W, 3) as (N, H, W, 3); grey is repeated without a copy."""
    coloured = images if images.ndim == 4 else images[..., None]
    return np.broadcast_to(coloured, (*coloured.shape[:3], 3))


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
