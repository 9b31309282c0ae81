"""Data sets as they are stored: their layouts, labels that are read at once, and pixels that are read when needed."""

import codecs
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodes.data.images import Images, Indices
from nodes.errors import DataError, one_line

MOST_BYTES = 1 << 30  # of one file that is read as a whole
HIDDEN = re.compile(
    r"\..*|__macosx|__pycache__|@eadir|[$#]recycle(\.bin)?|lost\+found|thumbs\.db|desktop\.ini", re.IGNORECASE
)
MOST_NAMED = 10  # classes in a note


class Part(NamedTuple):
    """Training or test part of a data set."""

    labels: NDArray[np.integer]  # (N,) as stored
    where: object  # file or array of the labels, for messages
    size: int  # pictures
    read: Callable[[int], Images]  # the pixels; picture files are scaled to the given side
    paths: Sequence[Path] = ()  # of picture files
    length: int | None = None  # of a sequence of tokens; None for pictures


class Stored(NamedTuple):
    """An opened data set."""

    train: Part
    test: Part
    classes: tuple[str, ...] = ()  # empty: those of the data set, or one for each label
    name: str | None = None  # None: the files do not name the data set
    first_label: int | None = None  # None: 0, or 1 where the labels show it
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which a data set may lie in the user's folder."""

    places: tuple[str, ...]  # folders or files in that folder; "." is the folder itself
    holds: str  # content of a folder, in words; empty: the place is a file
    read: Callable[[Path, tuple[str, ...]], Stored]  # of the place and the names of the classes
    files: tuple[str, ...] = ()  # patterns, each of which a file in the folder must match
    claims: Callable[[Path], bool] | None = None  # whether a folder is in this layout; None: it has any of the files

    def place_in(self, directory: Path) -> Path | None:
        """The first place in ``directory`` that is in this layout, perhaps incompletely."""
        places = (entry_at(directory, name) for name in self.places)
        return next((place for place in places if place and self.owns(place)), None)

    def place_below(self, directory: Path) -> Path | None:
        """The first such place in a folder of ``directory``, as archives wrap theirs."""
        named = [name for name in self.places if self.holds and name != "."]
        places = (folder / name for folder in visible_folders(directory) for name in named)
        return next((place for place in places if self.owns(place)), None)

    def owns(self, place: Path) -> bool:
        if not self.holds:
            return place.is_file()
        if not place.is_dir():
            return False
        return self.claims(place) if self.claims else any(find(place, pattern) for pattern in self.files)

    def open(self, place: Path, classes: tuple[str, ...]) -> Stored:
        """Read labels and headers at ``place``. Raises DataError."""
        if missing := [pattern for pattern in self.files if find(place, pattern) is None]:
            raise DataError(f"no {missing[0]} in {place}; expected {', '.join(self.files)}")
        return self.read(place, classes)

    @property
    def text(self) -> str:
        return f"{self.places[0]}/ with {self.holds}" if self.holds else self.places[0]


def visible(folder: Path) -> list[Path]:
    """Entries of ``folder`` in order, without hidden ones and those that operating systems add. Raises DataError."""
    try:
        return sorted(entry for entry in folder.iterdir() if not HIDDEN.fullmatch(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None


def visible_folders(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if entry.is_dir()]


def entry_at(folder: Path, path: str) -> Path | None:
    """The entry at ``path`` below ``folder``, spelt so or, where there is none, with letters of another case."""
    if (folder / path).exists():
        return folder / path
    first, _, rest = path.partition("/")
    same = (one for one in visible(folder) if one.name.lower() == first.lower())
    below = ((entry_at(one, rest) if one.is_dir() else None) if rest else one for one in same)
    return next((one for one in below if one is not None), None)


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark. Raises DataError."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8: {error}") from None


def find(folder: Path, pattern: str) -> Path | None:
    """The first file in ``folder`` whose name matches ``pattern``, whatever the case of its letters."""
    named = (entry for entry in visible(folder) if fnmatchcase(entry.name.lower(), pattern.lower()))
    return next((entry for entry in named if entry.is_file()), None)


def locate(folder: Path, *patterns: str) -> Path:
    """The first file in ``folder`` that matches one of ``patterns``. Raises DataError."""
    found = next((path for pattern in patterns if (path := find(folder, pattern))), None)
    if found is None:
        raise DataError(f"no {patterns[0]} in {folder}; expected {' or '.join(patterns)}")
    return found


def contents(place: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files ``names`` of a folder, or of a tar archive, whatever its folders. Raises DataError."""
    if place.is_dir():
        there = {name: path for name in names if (path := find(place, name))}
        for path in there.values():
            _check_size(path, path.stat().st_size)
        return {name: path.read_bytes() for name, path in there.items()}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                _check_size(f"{place}: {name}", member.size)
                if name in names and (file := archive.extractfile(member)):
                    if name in found:
                        raise DataError(f"{place}: holds {name} twice, expected it once")
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{place}: expected a readable tar archive: {one_line(error)}") from None
    return found


def _check_size(where: object, size: int) -> None:
    if size > MOST_BYTES:
        raise DataError(f"{where}: {size:,} bytes, expected at most {MOST_BYTES:,}")


def number_labels(stored: Stored, classes: tuple[str, ...]) -> tuple[list[Indices], tuple[str, ...], list[str]]:
    """Labels of the training and the test part from 0, the classes, and notes on what the user should know.

    Labels that run from 1 to the number of classes are counted from 1. Raises DataError.
    """
    parts = {"training": stored.train, "test": stored.test}
    for part in parts.values():
        if len(part.labels) != part.size:
            raise DataError(f"{part.where}: {len(part.labels):,} labels for {part.size:,} pictures; expected one each")
    if not (stored.train.size and stored.test.size):
        raise DataError(f"{stored.train.size} training and {stored.test.size} test pictures, expected some of each")
    labels = [part.labels.astype(np.int64) for part in parts.values()]
    lowest, highest = min(part.min() for part in labels), max(part.max() for part in labels)
    notes = list(stored.notes)
    classes = stored.classes or classes
    first = stored.first_label
    if first is None:
        first = int(lowest == 1 and (not classes or highest == len(classes)))
        if first:
            notes.append(f"{stored.train.where}: labels run from 1 to {highest}: taken as classes 0 to {highest - 1}")
    if not classes:
        if highest - first >= stored.train.size:
            raise DataError(f"{stored.train.where}: label {highest}, expected fewer classes than training pictures")
        classes = tuple(str(number) for number in range(highest + 1 - first))
    labels = [numbers - first for numbers in labels]
    for kind, part, numbers in zip(parts, parts.values(), labels, strict=True):
        wrong = numbers[(numbers < 0) | (numbers >= len(classes))]
        if len(wrong):
            expected = f"expected {first} to {len(classes) - 1 + first}"
            raise DataError(f"{part.where}: label {wrong[0] + first}, {expected}")
        without = [classes[index] for index in np.flatnonzero(np.bincount(numbers, minlength=len(classes)) == 0)]
        if without:
            more = f" and {len(without) - MOST_NAMED} more" if len(without) > MOST_NAMED else ""
            notes.append(f"{part.where}: no {kind} picture of class {', '.join(without[:MOST_NAMED])}{more}")
    return labels, classes, notes
