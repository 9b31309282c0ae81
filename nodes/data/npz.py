"""Reader of npz files: training and test pictures and their labels, in MedMNIST's or in Keras' names.

Sequences of tokens, integers (N, T), may stand in the place of the pictures.
"""

import lzma
import math
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nodes.data.arrays import DEFLATE_RATIO, by, three_channels
from nodes.data.images import Images
from nodes.data.stored import Part, Stored
from nodes.errors import DataError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
KERAS_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
SPELLINGS = (
    ARRAYS,
    KERAS_ARRAYS,
    *(
        tuple(f"{part}_{what}" for part in ("train", "test") for what in pair)
        for pair in (("x", "y"), ("data", "labels"), ("data", "targets"), ("images", "targets"))
    ),
)
NAME_CHARACTERS = 100
MOST_ARRAY_BYTES = 1 << 35  # unpacked
# What reading a damaged archive raises: RuntimeError for an encrypted one, which includes an unknown compression.
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)

Headers = dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]


def read_npz(path: Path, classes: tuple[str, ...]) -> Stored:
    """Pictures and labels; others, such as those for validation, are not used.

    The data set's name is that of an array ``name``, else the file's.
    """
    headers = _headers(path)
    keys = _keys(headers)
    numbers, classes = _numbers([(f"{path}: {key}", loaded(path, key)) for key in keys[1::2]], classes)

    def part(images: str, labels: str, numbers: NDArray[np.integer]) -> Part:
        (size, *shape), _ = headers[images]
        length = shape[0] if len(shape) == 1 else None

        def read(_side: int) -> Images:
            values = loaded(path, images)
            if length is not None:
                return cast("Images", values.astype(np.int64))
            return three_channels(values.transpose(0, 2, 3, 1) if _channels_first((size, *shape)) else values)

        return Part(numbers, f"{path}: {labels}", size, read, length=length)

    train, test = (part(*each) for each in zip(keys[::2], keys[1::2], numbers, strict=True))
    return Stored(train, test, classes, npz_name(path, headers))


def _channels_first(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)


def _numbers(
    labels: Sequence[tuple[str, Any]], classes: tuple[str, ...]
) -> tuple[list[NDArray[np.integer]], tuple[str, ...]]:
    """Labels of both parts as numbers, from whole numbers in any type, one-hot rows or names; and the classes.

    Raises DataError.
    """
    if any(values.dtype.kind in "US" for _, values in labels):
        texts = [np.char.strip(values.astype(str)).reshape(-1) for _, values in labels]
        names = np.unique(np.concatenate(texts)).tolist()
        if not all(name.isdecimal() for name in names):
            classes = classes if set(names) <= set(classes) else tuple(names)
            places = {name: number for number, name in enumerate(classes)}
            return [np.array([places[name] for name in part.tolist()], np.int64) for part in texts], classes
        labels = [(where, part.astype(np.int64)) for (where, _), part in zip(labels, texts, strict=True)]
    return [_whole_numbers(where, values) for where, values in labels], classes


def _whole_numbers(where: str, values: Any) -> NDArray[np.integer]:
    if values.ndim == 2 and values.shape[1] > 1:
        if not (((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all()):
            raise DataError(
                f"{where}: rows of {values.shape[1]} numbers, expected a 1 in each and 0 otherwise (one-hot)"
            )
        return cast("NDArray[np.integer]", values.argmax(1))
    whole = values.reshape(-1)
    if whole.dtype.kind not in "iu":
        with np.errstate(invalid="ignore"):  # which the comparison finds
            numbers = whole.astype(np.int64)
        if len(wrong := whole[numbers != whole]):
            raise DataError(f"{where}: label {wrong[0]}, expected whole numbers")
        return cast("NDArray[np.integer]", numbers)
    return cast("NDArray[np.integer]", whole)


def npz_name(path: Path, headers: Headers | None = None) -> str:
    """The name of the data set in ``path`` for records. Raises DataError."""
    name = str(loaded(path, "name").item()) if "name" in (headers or _headers(path)) else path.stem
    if not name or not name.isprintable():
        raise DataError(f"{path}: name is {name!r}, expected printable characters")
    return name


def loaded(path: Path, key: str) -> Any:
    """Array ``key`` of ``path``, once its header is known to be of what is there. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            _npy_header(archive, _members(archive)[key])
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except KeyError:
        raise DataError(f"{path}: no array {key}") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: expected arrays that can be read: {error}") from None


def _headers(path: Path) -> Headers:
    """Checked shapes and dtypes of the arrays that ``read_npz`` reads, from their headers alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            wanted = [key for key in members if key == "name" or _plain(key) in PLAIN]
            headers = {key: _npy_header(archive, members[key]) for key in wanted}
    except UNREADABLE as error:
        raise DataError(f"{path}: expected an npz with {', '.join(ARRAYS)}: {error}") from None
    _check(path, headers)
    return headers


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by the names of their arrays. Raises ValueError if two have one name, or one is not in the file."""
    members: dict[str, zipfile.ZipInfo] = {}
    size = os.fstat(archive.fp.fileno()).st_size if archive.fp else 0
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"holds {name} twice")
        if info.header_offset + info.compress_size > size:
            raise ValueError(f"{info.filename} is said to take {info.compress_size:,} bytes, more than the file has")
        members[name] = info
    return members


def _npy_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed by method {info.compress_type}; expected deflate or none")
    with archive.open(info) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        declared = math.prod(shape) * dtype.itemsize + file.tell()
    possible = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects; save labels as numbers or as text (dtype=str)")
    if declared != info.file_size or declared > possible or min(shape, default=0) < 0:
        raise ValueError(f"{info.filename} declares {declared:,} bytes, more or fewer than it holds")
    if declared > MOST_ARRAY_BYTES:
        raise ValueError(f"{info.filename} declares {declared:,} bytes, expected at most {MOST_ARRAY_BYTES:,}")
    return shape, dtype


def _check(path: Path, headers: Headers) -> None:
    keys = _keys(headers)
    if missing := [key for key in keys if key not in headers]:
        raise DataError(f"{path}: no array {missing[0]}; expected {', '.join(ARRAYS)}, or {', '.join(KERAS_ARRAYS)}")
    for images, labels in (keys[:2], keys[2:]):
        shape, dtype = headers[images]
        pictures = dtype == np.uint8 and (
            len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3) or _channels_first(shape)))
        )
        tokens = dtype.kind in "iu" and len(shape) == 2
        if not (pictures or tokens) or 0 in shape:
            expected = "uint8 (N, H, W), (N, H, W, 3) or (N, 3, H, W), or integers (N, T)"
            convert = "; convert pixels to 0 to 255 in uint8" if len(shape) > 2 and dtype != np.uint8 else ""
            raise DataError(f"{path}: {images} is {dtype} {shape}, expected {expected}{convert}")
        shape, dtype = headers[labels]
        if (
            dtype.kind not in "biufUS"
            or len(shape) not in (1, 2)
            or (dtype.kind in "US" and len(shape) > 1)
            or 0 in shape
        ):
            expected = "numbers or names (N,), (N, 1), or one-hot rows (N, classes)"
            raise DataError(f"{path}: {labels} is {dtype} {shape}, expected {expected}")
    train, test = (_sides(headers[key][0]) for key in keys[::2])
    if train != test:
        sizes = [by(size) if len(size) > 1 else f"{size[0]} tokens" for size in (train, test)]
        raise DataError(f"{path}: {keys[0]} of {sizes[0]}, {keys[2]} of {sizes[1]}; expected one size")
    shape, dtype = headers.get("name", ((), np.dtype("U1")))
    if shape or dtype.kind != "U" or dtype.itemsize > 4 * NAME_CHARACTERS:
        raise DataError(f"{path}: name is {dtype} {shape}, expected one string of at most {NAME_CHARACTERS}")


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[2:4] if _channels_first(shape) else shape[1:3]


def _plain(key: str) -> str:
    """An array's name without what people write in several ways: X_train, x_train and xTrain are one."""
    return re.sub(r"[_\W]", "", key).lower()


PLAIN = frozenset(_plain(key) for keys in SPELLINGS for key in keys)


def _keys(headers: Headers) -> tuple[str, ...]:
    """Names of the pictures and labels for training, and for testing: of the spelling of which most are there."""
    there: dict[str, str] = {}
    for key in headers:
        there.setdefault(_plain(key), key)
    found = ([there.get(_plain(key), key) for key in keys] for keys in SPELLINGS)
    return tuple(max(found, key=lambda keys: sum(key in headers for key in keys)))
