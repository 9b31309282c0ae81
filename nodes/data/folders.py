"""Readers of folders of picture files: a folder for each class, tiny-imagenet's annotations, and HAM10000's table.

Every reader takes the folder and the names of the classes, which are unused where folders name them. Hidden files and
folders count nowhere.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nodes.data.images import stratified
from nodes.data.picture_files import Files, is_picture, pictures_below
from nodes.data.stored import Part, Stored, find, visible, visible_folders
from nodes.errors import DataError

SPLIT_SEED = 0  # of splits into training and test where none is published
TEST_SHARE = 0.2
TRAIN = re.compile(r"train(ing)?(\..*)?", re.IGNORECASE)
TEST = re.compile(r"test(ing)?(\..*)?", re.IGNORECASE)
VALIDATION = re.compile(r"val(id|idation)?(\..*)?", re.IGNORECASE)
ANNOTATIONS = "val_annotations.txt"
CLASS_FOLDERS = (
    "train/CLASS/* and test/CLASS/* (or val/CLASS/*, or val/images/* with val_annotations.txt),"
    " or CLASS/* of at least two classes"
)

ByClass = dict[str, list[Path]]


def has_parts(folder: Path) -> bool:
    """Whether ``folder`` has folders for training and for testing or validation."""
    return bool(_named(folder, TRAIN)) and bool(_named(folder, TEST) or _named(folder, VALIDATION))


def has_classes(folder: Path) -> bool:
    """Whether ``folder`` has parts, or pictures right in two or more of its folders."""
    inside = visible_folders(folder)
    return has_parts(folder) or sum(any(is_picture(f.name) for f in visible(one)) for one in inside) > 1


def read_folder(folder: Path, _classes: tuple[str, ...]) -> Stored:
    """train/CLASS/* and test/CLASS/*, or CLASS/*, of which a fifth of each class is for testing."""
    folder = unwrapped(folder)
    if _named(folder, TRAIN):
        return read_parts(folder, ())._replace(name=folder.name)
    found, notes = _by_class([folder])
    classes = tuple(found)
    if len(classes) < 2:
        raise DataError(f"{folder}: {len(classes)} folders with pictures; expected {CLASS_FOLDERS}")
    everything = _labelled(found, classes)
    chosen = _test_share([label for _, label in everything])

    def part(test: bool) -> Part:
        return _part(folder, [pair for index, pair in enumerate(everything) if (index in chosen) == test])

    return Stored(part(False), part(True), classes, folder.name, 0, notes)


def read_parts(folder: Path, _classes: tuple[str, ...]) -> Stored:
    """A folder a class in train, possibly in parts (train.X1, …), and in test, else in val."""
    train, notes = _by_class(_named(folder, TRAIN))
    if not train:
        raise DataError(f"{folder}: no pictures in train/CLASS/; expected {CLASS_FOLDERS}")
    tested, validated = _by_class(_named(folder, TEST)), _validation(folder)
    use_test = bool(tested[0]) and (tested[0].keys() <= train.keys() or not validated[0])
    kind, (test, more) = ("test", tested) if use_test else ("val", validated)
    if not test:
        raise DataError(f"{folder}: no pictures in test/CLASS/ or val/CLASS/; expected {CLASS_FOLDERS}")
    if use_test and validated[0]:
        more = (*more, f"{folder}: test is used, val is not")
    classes = tuple(train)
    if unknown := [name for name in test if name not in train]:
        raise DataError(f"{folder}: class {unknown[0]} is in {kind}, not in train; expected the same classes")
    parts = (_part(folder, _labelled(part, classes)) for part in (train, test))
    return Stored(next(parts), next(parts), classes, first_label=0, notes=(*notes, *more))


def _labelled(by_class: ByClass, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [(path, label) for label, name in enumerate(classes) for path in by_class.get(name, [])]


def _test_share(labels: Sequence[int]) -> set[int]:
    """Indices of the share for testing, the same of each class."""
    count = max(1, round(TEST_SHARE * len(labels)))
    return set(stratified(np.array(labels, np.int64), count, SPLIT_SEED).tolist())


def _part(folder: Path, pictures: Sequence[tuple[Path, int]]) -> Part:
    paths = [path for path, _ in pictures]
    labels = np.array([label for _, label in pictures], np.int64)
    return Part(labels, folder, len(paths), lambda side: Files(paths, side), paths)


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [entry for entry in visible_folders(folder) if pattern.fullmatch(entry.name)]


def unwrapped(folder: Path) -> Path:
    """The folder itself, or the only folder in it with folders of its own: archives often wrap their content."""
    inside = [entry for entry in visible(folder) if entry.is_dir() or is_picture(entry.name)]
    if len(inside) == 1 and not _named(folder, TRAIN) and inside[0].is_dir() and visible_folders(inside[0]):
        return unwrapped(inside[0])
    return folder


def _by_class(folders: Sequence[Path]) -> tuple[ByClass, tuple[str, ...]]:
    """Pictures by class, at any depth below its folder, and notes on folders without any."""
    found: ByClass = {}
    for place in (place for folder in folders for place in visible_folders(folder)):
        found.setdefault(place.name, []).extend(pictures_below(place))
    notes = tuple(f"{folders[0]}: no picture in {name}/: not taken as a class" for name in found if not found[name])
    return {name: found[name] for name in sorted(found) if found[name]}, notes


def _validation(folder: Path) -> tuple[ByClass, tuple[str, ...]]:
    """Pictures of val by class, whose classes may stand in tiny-imagenet's annotations instead of folders."""
    places = _named(folder, VALIDATION)
    table = next((path for place in places if (path := find(place, ANNOTATIONS))), None)
    if table is None or not (table.parent / "images").is_dir():
        return _by_class(places)
    there = {path.name: path for path in pictures_below(table.parent / "images")}
    found: ByClass = {}
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        name, wnid, *_ = [*line.split("\t"), "", ""]
        if not wnid:
            raise DataError(f"{table}:{number}: expected a file and its class, separated by a tab")
        if name not in there:
            raise DataError(f"{table}:{number}: no picture {name} in {table.parent / 'images'}")
        found.setdefault(wnid, []).append(there[name])
    return {name: sorted(found[name]) for name in sorted(found)}, ()


def read_ham10000(folder: Path, classes: tuple[str, ...]) -> Stored:
    """HAM10000: a table and pictures in any folders; a fifth of each class's lesions is for testing.

    All pictures of a lesion are on the same side.
    """
    table = _ham_table(folder)
    if table is None:
        raise DataError(f"no HAM10000_metadata.csv in {folder}; expected the table and the pictures")
    rows = _rows(table)
    files = {path.stem.lower(): path for path in reversed(pictures_below(folder))}
    missing = [row["image_id"] for row in rows if row["image_id"].lower() not in files]
    for line, row in enumerate(rows, start=2):
        if not row["lesion_id"]:
            raise DataError(f"{table}:{line}: no lesion_id, expected one in every row")
        if row["dx"] not in classes:
            raise DataError(f"{table}:{line}: dx is {row['dx']!r}, expected one of {', '.join(classes)}")
    if missing:
        raise DataError(f"{folder}: no picture {missing[0]}.jpg, {len(missing):,} of {len(rows):,} are missing")
    rows.sort(key=lambda row: (row["lesion_id"], row["image_id"]))
    lesions = {row["lesion_id"]: classes.index(row["dx"]) for row in rows}
    chosen = _test_share([*lesions.values()])
    testing = {lesion for index, lesion in enumerate(lesions) if index in chosen}

    def part(test: bool) -> Part:
        own = [row for row in rows if (row["lesion_id"] in testing) == test]
        return _part(folder, [(files[row["image_id"].lower()], classes.index(row["dx"])) for row in own])

    return Stored(part(False), part(True), classes, first_label=0)


def has_ham_table(folder: Path) -> bool:
    return _ham_table(folder) is not None or any(
        entry.name.lower().startswith("ham10000_images") for entry in visible_folders(folder)
    )


def _ham_table(folder: Path) -> Path | None:
    """The table of HAM10000, as Kaggle (.csv) or Dataverse (.tab, or without an ending) name it."""
    endings = ("", ".csv", ".tab", ".tsv", ".txt")
    return next((found for ending in endings if (found := find(folder, f"ham10000_metadata{ending}"))), None)


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        delimiter = "\t" if lines and "\t" in lines[0] else ","
        rows = list(csv.DictReader(lines, delimiter=delimiter))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table}: expected a table in UTF-8, with commas or tabs: {error}") from None
    if not rows or not {"image_id", "lesion_id", "dx"} <= rows[0].keys():
        raise DataError(f"{table}: expected rows with the columns image_id, lesion_id and dx")
    return [{key: (value or "").strip() for key, value in row.items() if key} for row in rows]
