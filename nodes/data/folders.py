"""Readers of folders of picture files: a folder for each class, tiny-imagenet's annotations, and HAM10000's table.

Every reader takes the folder and the names of the classes, which are unused where folders name them. Hidden files and
folders count nowhere.
"""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from nodes.data.images import stratified
from nodes.data.picture_files import UNREAD, Files, is_picture, pictures_below, walked
from nodes.data.stored import Part, Stored, find, text_of, visible, visible_folders
from nodes.errors import DataError

SPLIT_SEED = 0  # of splits into training and test where none is published
TEST_SHARE = 0.2


def _part_names(words: str) -> re.Pattern[str]:
    """Names that people give to a part of a data set, such as train, Train_Set, seg_train, 01-train and train.X1."""
    after = r"[ _-]?(set|split|data|dataset|images|imgs)?[ _-]?(\d*|\..*)"
    return re.compile(rf"((seg|\d+)[ _-])?({words}){after}", re.IGNORECASE)


TRAIN = _part_names("train(ing)?")
TEST = _part_names("test(ing)?")
VALIDATION = _part_names("val(id|idation)?|dev(elopment)?|eval(uation)?")
COLUMNS = ("image_id", "lesion_id", "dx")  # that are read of HAM10000's table
ANNOTATIONS = "val_annotations.txt"
TABLES = (".csv", ".tsv", ".xlsx", ".parquet", ".json")
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
    return has_parts(folder) or _has_pictures_in_folders(folder)


def _has_pictures_in_folders(folder: Path) -> bool:
    """Whether pictures lie right in two or more folders of ``folder``."""
    return sum(any(is_picture(f.name) for f in visible(one)) for one in visible_folders(folder)) > 1


def read_folder(folder: Path, _classes: tuple[str, ...]) -> Stored:
    """train/CLASS/* and test/CLASS/*, or CLASS/*, of which a fifth of each class is for testing."""
    folder = unwrapped(folder)
    if has_parts(folder) or (_named(folder, TRAIN) and not _has_pictures_in_folders(folder)):
        return read_parts(folder, ())._replace(name=folder.name)
    found, notes = _by_class([folder])
    classes = tuple(found)
    if len(classes) < 2:
        raise DataError(f"{folder}: {len(classes)} folders with pictures; expected {_expected(folder)}")
    everything = _labelled(found, classes)
    chosen = _test_share([label for _, label in everything])

    def part(test: bool) -> Part:
        return _part(folder, [pair for index, pair in enumerate(everything) if (index in chosen) == test])

    return Stored(part(False), part(True), classes, folder.name, 0, notes)


def read_parts(folder: Path, _classes: tuple[str, ...]) -> Stored:
    """A folder a class in train, possibly in parts (train.X1, …), and in test, else in val."""
    train, notes = _by_class(_named(folder, TRAIN))
    if not train:
        raise DataError(f"{folder}: no pictures in train/CLASS/; expected {_expected(folder)}")
    tested, validated = _by_class(_named(folder, TEST)), _validation(folder)
    use_test = bool(tested[0]) and (tested[0].keys() <= train.keys() or not validated[0])
    kind, (test, more) = ("test", tested) if use_test else ("val", validated)
    if not test:
        raise DataError(f"{folder}: no pictures in test/CLASS/ or val/CLASS/; expected {_expected(folder)}")
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
    """The folder itself, or the only folder in it with pictures, in folders of its own: archives wrap their content."""
    if _named(folder, TRAIN):
        return folder
    inside = list(islice((one for one in visible_folders(folder) if any(walked(one))), 2))
    return unwrapped(inside[0]) if len(inside) == 1 and visible_folders(inside[0]) else folder


def _by_class(folders: Sequence[Path]) -> tuple[ByClass, tuple[str, ...]]:
    """Pictures by class, at any depth below its folder, and notes on folders without any."""
    found: ByClass = {}
    for place in (place for folder in map(_inside, folders) for place in visible_folders(folder)):
        found.setdefault(unicodedata.normalize("NFC", place.name), []).extend(pictures_below(place))
    notes = [f"{folders[0]}: no picture in {name}/: not taken as a class" for name in found if not found[name]]
    for folder in map(_inside, folders):
        notes += _unread(folder)
    return {name: found[name] for name in sorted(found) if found[name]}, tuple(notes)


def _inside(part: Path) -> Path:
    """The folder of a part, or the folder of a part in it: some archives have train/train/."""
    inside = visible_folders(part)
    nested = len(inside) == 1 and any(kind.fullmatch(inside[0].name) for kind in (TRAIN, TEST, VALIDATION))
    return inside[0] if nested else part


def _expected(folder: Path) -> str:
    """How pictures should lie in ``folder``, which may have their labels in a table."""
    tables = [path.name for path in visible(folder) if path.name.lower().endswith(TABLES)]
    return CLASS_FOLDERS + (f"; labels in {tables[0]} are not read" if tables else "")


def _unread(folder: Path) -> Iterator[str]:
    """What the user may take for read in a folder of classes and is not."""
    if outside := sum(is_picture(path.name) for path in visible(folder)):
        yield f"{folder}: {outside:,} pictures beside the folders of the classes are not read"
    inside = [{one.name for one in visible_folders(place)} for place in visible_folders(folder)]
    if len(inside) > 1 and len(same := set.intersection(*inside)) > 1:
        names = ", ".join(place.name for place in visible_folders(folder)[:3])
        yield f"{folder}: {names} are taken as classes, though each holds {', '.join(sorted(same)[:3])}"
    endings = Counter(ending for path in walked(folder, UNREAD) if (ending := path.suffix.lower()))
    for ending, count in sorted(endings.items()):
        yield f"{folder}: {count:,} {ending} files are not read; convert them to .png or .jpg"


def _validation(folder: Path) -> tuple[ByClass, tuple[str, ...]]:
    """Pictures of val by class, whose classes may stand in tiny-imagenet's annotations instead of folders."""
    places = _named(folder, VALIDATION)
    table = next((path for place in places if (path := find(place, ANNOTATIONS))), None)
    if table is None or not (table.parent / "images").is_dir():
        return _by_class(places)
    there = {path.name: path for path in pictures_below(table.parent / "images")}
    found: ByClass = {}
    for number, line in enumerate(text_of(table).splitlines(), start=1):
        name, wnid, *_ = [*line.split("\t"), "", ""]
        if not line.strip():
            continue
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
    numbered = _rows(table)
    rows = [row for _, row in numbered]
    files = {path.stem.lower(): path for path in reversed(pictures_below(folder))}
    missing = [row["image_id"] for row in rows if row["image_id"].lower() not in files]
    for line, row in numbered:
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


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by column) of each row, whatever divides them and in whatever case they are written."""
    lines = [(number, line) for number, line in enumerate(text_of(table).splitlines(), start=1) if line.strip()]
    if lines and (mark := re.fullmatch(r'"?sep=(.)"?', lines[0][1].strip(), re.IGNORECASE)):  # of Excel
        lines = lines[1:]
    else:
        mark = re.search(r"[\t;|,]", lines[0][1]) if lines else None
    delimiter = mark[mark.re.groups] if mark else ","
    try:
        cells = list(csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{table}: expected a table with commas, semicolons or tabs: {error}") from None
    columns = [name.strip().lower() for name in cells[0]] if cells else []
    if len(cells) < 2 or not set(COLUMNS) <= set(columns):
        raise DataError(f"{table}: expected rows with the columns {', '.join(COLUMNS)}")
    rows = [dict(zip(columns, map(str.strip, [*row, *[""] * len(columns)]), strict=False)) for row in cells[1:]]
    for row in rows:
        row["dx"] = row["dx"].lower()
        row["image_id"] = Path(row["image_id"]).stem if is_picture(row["image_id"]) else row["image_id"]
    return [(number, row) for (number, _), row in zip(lines[1:], rows, strict=False)]
