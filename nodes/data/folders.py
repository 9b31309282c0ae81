"""Readers of folders of picture files, one per layout; pictures are decoded on first use.

Every reader takes the folder, the names of the classes (unused where folders name them) and the side to which
pictures are scaled.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodes.data.files import DatasetPart, Stored
from nodes.data.images import Files, stratified
from nodes.errors import DataError

SPLIT_SEED = 0  # of splits into training and test where none is published
TEST_SHARE = 0.2
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def read_imagenet(folder: Path, _classes: tuple[str, ...], side: int) -> Stored:
    """ImageNet's folders: train*/CLASS/* and val*/CLASS/*, train possibly in parts (train.X1, …)."""
    return _read_parts(folder, "train*", "val*", side)._replace(name=None)


def read_folder(folder: Path, _classes: tuple[str, ...], side: int) -> Stored:
    """train/CLASS/* and test/CLASS/*, or CLASS/*, of which a fifth of each class is for testing."""
    if (folder / "train").is_dir():
        return _read_parts(folder, "train", "test", side)
    paths = _by_class([folder])
    classes = tuple(paths)
    everything = [(path, label) for label, name in enumerate(classes) for path in paths[name]]
    labels = np.array([label for _, label in everything], np.int64)
    if len(classes) < 2:
        raise DataError(f"{folder}: expected train/CLASS/* and test/CLASS/*, or CLASS/* of at least two classes")
    chosen = stratified(labels, max(1, round(TEST_SHARE * len(labels))), SPLIT_SEED)
    test = np.isin(np.arange(len(labels)), chosen)

    def split(chosen: NDArray[np.bool_]) -> DatasetPart:
        return DatasetPart(Files([everything[index][0] for index in np.flatnonzero(chosen)], side), labels[chosen])

    return Stored(folder.name, classes, split(~test), split(test))


def _read_parts(folder: Path, train: str, test: str, side: int) -> Stored:
    parts = [_by_class(sorted(folder.glob(pattern))) for pattern in (train, test)]
    classes = tuple(parts[0])
    for pattern, part in zip((train, test), parts, strict=True):
        if not part:
            raise DataError(f"{folder}: no pictures in {pattern}/CLASS/ ({', '.join(sorted(SUFFIXES))})")
    if unknown := [name for name in parts[1] if name not in parts[0]]:
        raise DataError(f"{folder}: class {unknown[0]} is in {test}, not in {train}; expected the same classes")

    def split(part: Mapping[str, list[Path]]) -> DatasetPart:
        labels = [label for label, name in enumerate(classes) for _ in part.get(name, [])]
        paths = [path for name in classes for path in part.get(name, [])]
        return DatasetPart(Files(paths, side), np.array(labels, np.int64))

    return Stored(folder.name, classes, split(parts[0]), split(parts[1]))


def _by_class(folders: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*")):
            if path.suffix.lower() in SUFFIXES:
                found.setdefault(path.parent.name, []).append(path)
    return dict(sorted(found.items()))


def read_ham10000(folder: Path, classes: tuple[str, ...], side: int) -> Stored:
    """HAM10000 as published; a fifth of each class's lesions, with all their pictures, is for testing."""
    table = folder / "HAM10000_metadata.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table}: expected a CSV in UTF-8: {error}") from None
    if not rows or not {"image_id", "lesion_id", "dx"} <= rows[0].keys():
        raise DataError(f"{table}: expected rows with the columns image_id, lesion_id and dx")
    files = {path.stem: path for path in folder.glob("HAM10000_images_part_*/*.jpg")}
    for line, row in enumerate(rows, start=2):
        if not row["lesion_id"]:
            raise DataError(f"{table}:{line}: no lesion_id, expected one in every row")
        if row["dx"] not in classes:
            raise DataError(f"{table}:{line}: dx is {row['dx']!r}, expected one of {', '.join(classes)}")
        if row["image_id"] not in files:
            raise DataError(f"{folder}: no picture {row['image_id']}.jpg in HAM10000_images_part_1 or _2")
    rows.sort(key=lambda row: (row["lesion_id"], row["image_id"]))
    lesions = {row["lesion_id"]: classes.index(row["dx"]) for row in rows}
    chosen = stratified(np.array([*lesions.values()]), max(1, round(TEST_SHARE * len(lesions))), SPLIT_SEED)
    testing = {list(lesions)[index] for index in chosen}

    def split(test: bool) -> DatasetPart:
        part = [row for row in rows if (row["lesion_id"] in testing) == test]
        labels = np.array([classes.index(row["dx"]) for row in part], np.int64)
        return DatasetPart(Files([files[row["image_id"]] for row in part], side), labels)

    return Stored(None, classes, split(False), split(True))
