"""Tiny data sets in published layouts, written byte by byte and by hand."""

import gzip
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nodes.data.datasets import load_dataset
from nodes.errors import DataError


def assert_refused(
    words: str, name: str, folder: Path | None, call: Callable[..., object] = load_dataset, **options
) -> None:
    with pytest.raises(DataError, match=words):
        call(name, folder, **options)


def pixel(picture: int, row: int, column: int, channel: int) -> int:
    """A value that differs along every axis, so that swapped axes show."""
    return (picture * 101 + row * 7 + column * 3 + channel * 59) % 256


def pictures(count: int, height: int, width: int) -> np.ndarray:
    picture, row, column, channel = np.indices((count, height, width, 3))
    return ((picture * 101 + row * 7 + column * 3 + channel * 59) % 256).astype(np.uint8)


def cifar_file(labels: list[int]) -> bytes:
    content = bytearray()
    for picture, label in enumerate(labels):
        content.append(label)
        for channel in range(3):
            for row in range(32):
                content += bytes(pixel(picture, row, column, channel) for column in range(32))
    return bytes(content)


def write_cifar(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_file([number, 9]))
    (folder / "test_batch.bin").write_bytes(cifar_file([4, 0, 7]))


def write_cifar_pickles(folder: Path, protocol: int = 2) -> None:
    """The pictures and labels of ``write_cifar`` in Python's version, keys and file names as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in {**{f"data_batch_{n}": [n, 9] for n in range(1, 6)}, "test_batch": [4, 0, 7]}.items():
        (folder / name).write_bytes(pickle.dumps(batch(labels, b"labels"), protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"plane", *[b"x"] * 9]}, protocol))


def batch(labels: list[int], key: bytes) -> dict[bytes, object]:
    pixels = pictures(len(labels), 32, 32).transpose(0, 3, 1, 2).reshape(-1, 3072)
    return {key: labels, b"data": pixels, b"filenames": [b"a.png"] * len(labels)}


def write_stl(folder: Path) -> None:
    folder.mkdir()
    for part, labels in (("train", [1, 10]), ("test", [3])):
        content = bytearray()
        for picture in range(len(labels)):
            for channel in range(3):
                for column in range(96):
                    content += bytes(pixel(picture, row, column, channel) for row in range(96))
        (folder / f"{part}_X.bin").write_bytes(content)
        (folder / f"{part}_y.bin").write_bytes(bytes(labels))


def write_idx(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True)
    for part, labels in (("train", [9, 0, 3]), ("t10k", [1])):
        grey = bytes(pixel(n, row, column, 0) for n in range(len(labels)) for row in range(28) for column in range(28))
        images = bytes([0, 0, 8, 3]) + struct.pack(">III", len(labels), 28, 28) + grey
        numbers = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels)) + bytes(labels)
        for kind, content in (("images-idx3", images), ("labels-idx1", numbers)):
            write_maybe_packed(folder / f"{part}-{kind}-ubyte", content, packed)


def write_maybe_packed(path: Path, content: bytes, packed: bool) -> None:
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)


def npy(descr: str, shape: tuple[int, ...], content: bytes) -> bytes:
    """An npy file of version 1.0."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def write_npz(path: Path, packed: bool = False, **changed: bytes | None) -> None:
    """MedMNIST's layout with labels (N, 1); ``changed`` replaces whole members, None leaves one out."""
    members: dict[str, bytes | None] = {
        "train_images": npy("|u1", (4, 6, 6, 3), pictures(4, 6, 6).tobytes()),
        "train_labels": npy("|u1", (4, 1), bytes([0, 1, 2, 1])),
        "val_images": npy("|u1", (1, 6, 6, 3), bytes(108)),
        "val_labels": npy("|u1", (1, 1), bytes(1)),
        "test_images": npy("|u1", (2, 6, 6, 3), pictures(2, 6, 6).tobytes()),
        "test_labels": npy("<i8", (2, 1), struct.pack("<qq", 2, 0)),
        **changed,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_ham(folder: Path, lesions: int = 20, per_lesion: int = 2) -> dict[str, str]:
    """Two pictures a lesion, each of its own shade, spread over both folders; returns picture -> lesion."""
    rows, lesion_of = ["lesion_id,image_id,dx,dx_type,age,sex,localization"], {}
    for number in range(lesions * per_lesion):
        lesion, name = f"HAM_{number % lesions:07d}", f"ISIC_{number:07d}"
        rows.append(f"{lesion},{name},{'nv' if number % lesions % 2 else 'mel'},histo,50,male,back")
        save(folder / f"HAM10000_images_part_{1 + number % 2}" / f"{name}.jpg", (number, number, number))
        lesion_of[name] = lesion
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return lesion_of
