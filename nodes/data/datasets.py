"""Data sets by name: where their files are, checks and loading. Layouts: ``docs/data.md``."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodes.data.files import DatasetPart, Stored, npz_headers, npz_name, read_cifar10, read_idx, read_npz, read_stl10
from nodes.data.folders import read_folder, read_ham10000, read_imagenet
from nodes.data.images import AbsentError, Colour, Dataset, Images, Pictures, Resized, resize, statistics, stratified
from nodes.errors import DataError

Reader = Callable[[Path, tuple[str, ...], int], Stored]

EMBEDDED = "digits"
DIGITS_SIDE = 32
DIGITS_TEST = 360  # of 1,797


@dataclass(frozen=True)
class _Layout:
    """Where a data set's own files are under the user's folder, and how they are read."""

    read: Reader
    folders: tuple[str, ...]  # the first that has any of the files counts
    files: tuple[str, ...]  # patterns, each of which must be there
    npz: tuple[str, ...]  # taken if no folder has files
    classes: tuple[str, ...] = ()
    statistics: tuple[Colour, Colour] | None = None
    side: int = 64  # of picture files where none is asked for


SKIN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KNOWN = {
    "cifar10": _Layout(
        read_cifar10,
        ("cifar-10-batches-bin", "."),
        (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
        ("cifar10.npz",),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "stl10": _Layout(
        read_stl10,
        ("stl10_binary", "."),
        ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
        ("stl10.npz",),
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    ),
    "imagenet100": _Layout(
        read_imagenet,
        ("imagenet100", "."),
        ("train*/*/*", "val*/*/*"),
        ("imagenet100.npz",),
        statistics=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        side=224,
    ),
    "ham10000": _Layout(
        read_ham10000,
        ("ham10000", "HAM10000", "."),
        ("HAM10000_metadata.csv", "HAM10000_images_part_1/*.jpg", "HAM10000_images_part_2/*.jpg"),
        ("ham10000.npz", "dermamnist.npz"),
        SKIN,
    ),
    "fashionmnist": _Layout(
        read_idx,
        ("FashionMNIST/raw", "FashionMNIST", "."),
        tuple(f"{part}-{kind}-ubyte*" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")),
        ("fashionmnist.npz",),
        FASHION,
        ((0.2860, 0.2860, 0.2860), (0.3530, 0.3530, 0.3530)),
    ),
}


def dataset_names() -> list[str]:
    """Names of the data sets with a layout of their own."""
    return [EMBEDDED, *KNOWN]


def resolve_dataset(name: str, directory: Path | None) -> str:
    """The data set that ``name`` means: for ``auto(X)`` X if a folder is given, else the embedded digits.

    ``optional(X)``, formerly ``perhaps(X)``, is X only if that folder has files of it. Raises DataError for an unknown
    name.
    """
    wanted = re.fullmatch(r"(auto|optional|perhaps)\((.*)\)", name)
    plain = wanted[2] if wanted else name
    if plain not in dataset_names() and not re.fullmatch(r"(npz|folder):\w[\w.-]*", plain):
        raise DataError(f"no data set {plain!r}; expected {', '.join(dataset_names())}, npz:NAME or folder:NAME")
    if wanted is None:
        return plain
    absent = directory is None or (wanted[1] != "auto" and plain != EMBEDDED and _absent(plain, directory))
    return EMBEDDED if absent else plain


def _absent(name: str, directory: Path) -> bool:
    try:
        _locate(name, directory)
    except DataError as error:  # incomplete files are an error of the user, not absence
        return isinstance(error, AbsentError)
    return False


def check_dataset(name: str, directory: Path | None) -> None:
    """Raise DataError if there is no such data set or its files are missing. Reads headers at most."""
    name = resolve_dataset(name, directory)
    if name == EMBEDDED:
        return
    with _naming(name):
        place, _ = _locate(name, directory)
        if place.is_file():
            npz_headers(place)


def recorded_name(name: str, directory: Path | None) -> str:
    """The name of the data set in records; npz files may contain their own. Raises DataError."""
    name = resolve_dataset(name, directory)
    if name == EMBEDDED:
        return name
    with _naming(name):
        place, _ = _locate(name, directory)
        return npz_name(place) if place.is_file() else name


def load_dataset(name: str, directory: Path | None, side: int | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: A data set, ``auto(X)`` or ``optional(X)``.
        directory: The user's folder; None for the embedded digits.
        side: Height and width to which the centre square is scaled bilinearly. None: arrays as stored, picture files
            at the layout's side, digits at DIGITS_SIDE.

    Raises:
        DataError: An unknown data set, or missing or damaged files.
    """
    name = resolve_dataset(name, directory)
    if side is not None and side < 1:
        raise DataError(f"{name}: side {side}, expected at least 1")
    with _naming(name):
        stored, known = _read(name, directory, side)
        train, test = (_sized(part.images, side) for part in (stored.train, stored.test))
        if not len(train) or not len(test):
            raise DataError(f"{len(train)} training and {len(test)} test pictures, expected some of each")
        mean, std = known or statistics(train)
    return Dataset(
        stored.name or name,
        stored.classes,
        Pictures(train, stored.train.labels, mean, std),
        Pictures(test, stored.test.labels, mean, std),
    )


def _read(name: str, directory: Path | None, side: int | None) -> tuple[Stored, tuple[Colour, Colour] | None]:
    if name == EMBEDDED:
        return _digits(side or DIGITS_SIDE), None
    place, layout = _locate(name, directory)
    read = read_npz if place.is_file() else layout.read
    return read(place, layout.classes, side or layout.side), layout.statistics


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (DataError, OSError) as error:
        raise DataError(f"{name}: {error}") from None


def _sized(images: Images, side: int | None) -> Images:
    return images if side is None or images.shape[1:3] == (side, side) else Resized(images, side)


def _locate(name: str, directory: Path | None) -> tuple[Path, _Layout]:
    """Folder or npz of ``name`` and its layout. Raises AbsentError without any of its files, DataError without some."""
    if directory is None:
        raise DataError(f"needs a folder with its files; only {EMBEDDED} is packaged")
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder")
    layout = KNOWN.get(name) or _own(name)
    for folder in (directory / part for part in layout.folders):
        missing = [pattern for pattern in layout.files if not any(folder.glob(pattern))]
        if len(missing) < len(layout.files):
            if missing:
                raise DataError(f"no {missing[0]} in {folder}; expected {', '.join(layout.files)}")
            return folder, layout
    for file in (directory / part for part in layout.npz):
        if file.is_file():
            return file, layout
    choices = [f"{folder}/ with {', '.join(layout.files)}" for folder in layout.folders[:1]] + [*layout.npz]
    raise AbsentError(f"not found in {directory}; expected {' or '.join(choices)}")


def _own(name: str) -> _Layout:
    """The layout of ``npz:NAME``, the file NAME.npz, or ``folder:NAME``, the folder NAME."""
    kind, _, stem = name.partition(":")
    if kind == "npz":
        return _Layout(read_npz, (), (), (f"{stem}.npz",))
    return _Layout(read_folder, (stem,), ("*/*",), ())


def _digits(side: int) -> Stored:
    """scikit-learn's 8x8 digits, 0 to 16 scaled to 0 to 255, bilinearly to ``side``; three equal channels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = resize(np.repeat(grey[..., None], 3, axis=3), side)
    labels = bunch.target.astype(np.int64)
    test = np.isin(np.arange(len(labels)), stratified(labels, DIGITS_TEST, seed=0))
    classes = tuple(str(digit) for digit in range(10))
    return Stored(None, classes, DatasetPart(images[~test], labels[~test]), DatasetPart(images[test], labels[test]))
