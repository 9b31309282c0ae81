"""Data sets by name: their layouts, checks and loading. ``docs/data.md`` has the layouts as a table."""

import functools
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nodes.data import arrays
from nodes.data.folders import (
    CLASS_FOLDERS,
    has_classes,
    has_ham_table,
    has_parts,
    read_folder,
    read_ham10000,
    read_parts,
    unwrapped,
)
from nodes.data.images import (
    AbsentError,
    Colour,
    Dataset,
    Images,
    Pictures,
    Resized,
    drawn_tokens,
    statistics,
    token_data,
)
from nodes.data.npz import npz_name, read_npz
from nodes.data.picture_files import damaged, refuse_damaged
from nodes.data.stored import Layout, Stored, number_labels, visible
from nodes.errors import DataError
from nodes.files import cached_reading

logger = logging.getLogger(__name__)

EMBEDDED = "digits"
DIGITS_SIDE = 32
SYNTHETIC = "tokens"  # drawn sequences
SYNTHETIC_SEQUENCES, SYNTHETIC_CLASSES = (2048, 512), 10  # for training and tests; of data that no job declares


@dataclass(frozen=True)
class Known:
    """A data set: its layouts, the first found one of which is read, and what its files do not say."""

    layouts: tuple[Layout, ...]
    classes: tuple[str, ...] = ()
    statistics: tuple[Colour, Colour] | None = None
    side: int = 64  # of picture files where none is asked for


def _npz(*files: str) -> Layout:
    return Layout(files, "", read_npz)


def _cifar(kind: str, cifar: arrays.Cifar, archive: str) -> tuple[Layout, Layout]:
    """A CIFAR data set in the folder ``kind``, and in the archive in which it is published."""
    read = partial(arrays.read_cifar, cifar=cifar)
    files = f"{', '.join(cifar.files)}"
    return Layout((kind, "."), files, read, cifar.files), Layout((archive,), "", read)


def _idx(*folders: str) -> Layout:
    kinds = ("images?idx3", "labels?idx1")
    files = tuple(f"{part}-{kind}-ubyte*" for part in ("train", "t10k") for kind in kinds)
    holds = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (or .gz)"
    return Layout((*folders, "."), holds, arrays.read_idx, files)


def _named_parts(start: str, folder: Path) -> bool:
    """Whether a folder whose name begins with ``start`` has parts: without the name it could be any data set."""
    return folder.resolve().name.lower().startswith(start) and has_parts(folder)


PACKAGED = (EMBEDDED, SYNTHETIC)  # need no files
DIGITS = arrays.DIGITS
SKIN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FASHION_FOLDERS = ("Fashion_MNIST/raw", "Fashion_MNIST", "fashion-mnist/raw", "fashion-mnist")
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
PARTS = "train*/CLASS/* and val*/CLASS/*"
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
STL_FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
HAM = "HAM10000_metadata (.csv, .tab or without an ending) and the pictures, in any folders"
KNOWN = {
    "cifar10": Known(
        (
            *_cifar("cifar-10-batches-bin", arrays.CIFAR10_BINARY, "cifar-10-binary.tar.gz"),
            *_cifar("cifar-10-batches-py", arrays.CIFAR10, "cifar-10-python.tar.gz"),
            _npz("cifar10.npz"),
        ),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": Known(
        (
            *_cifar("cifar-100-python", arrays.CIFAR100, "cifar-100-python.tar.gz"),
            *_cifar("cifar-100-binary", arrays.CIFAR100_BINARY, "cifar-100-binary.tar.gz"),
            _npz("cifar100.npz"),
        ),
        tuple(str(number) for number in range(100)),
        ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
    "stl10": Known(
        (
            Layout(("stl10_binary", "."), ", ".join(STL_FILES), arrays.read_stl10, STL_FILES),
            _npz("stl10.npz"),
        ),
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    ),
    "mnist": Known((_idx("MNIST/raw", "MNIST"), _npz("mnist.npz")), DIGITS, ((0.1307,) * 3, (0.3081,) * 3)),
    "fashionmnist": Known(
        (_idx("FashionMNIST/raw", "FashionMNIST", *FASHION_FOLDERS), _npz("fashionmnist.npz")),
        FASHION,
        ((0.2860, 0.2860, 0.2860), (0.3530, 0.3530, 0.3530)),
    ),
    "svhn": Known(
        (Layout(("SVHN", "svhn", "."), " and ".join(SVHN_FILES), arrays.read_svhn, SVHN_FILES), _npz("svhn.npz")),
        DIGITS,
        ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    ),
    "imagenet100": Known(
        (Layout(("imagenet100", "."), PARTS, read_parts, claims=has_parts), _npz("imagenet100.npz")),
        statistics=IMAGENET,
        side=224,
    ),
    "tinyimagenet": Known(
        (
            Layout(
                ("tiny-imagenet-200", "tiny-imagenet", "tinyimagenet", "."),
                "train/CLASS/images/* and val/images/* with val/val_annotations.txt",
                read_parts,
                claims=partial(_named_parts, "tiny"),
            ),
            _npz("tinyimagenet.npz"),
        ),
        statistics=IMAGENET,
    ),
    "imagenette": Known(
        (
            Layout(
                ("imagenette2-160", "imagenette2-320", "imagenette2", "imagenette", "."),
                "train/CLASS/* and val/CLASS/*",
                read_parts,
                claims=partial(_named_parts, "imagenette"),
            ),
            _npz("imagenette.npz"),
        ),
        statistics=IMAGENET,
        side=160,
    ),
    "ham10000": Known(
        (
            Layout(("ham10000", "HAM10000", "."), HAM, read_ham10000, claims=has_ham_table),
            _npz("ham10000.npz", "dermamnist.npz"),
        ),
        SKIN,
    ),
}


def dataset_names() -> list[str]:
    """Names of the data sets with a layout of their own."""
    return [EMBEDDED, *KNOWN]


def names_in(directory: Path) -> list[str]:
    """Names of the data sets that ``directory`` holds or is: known ones, and other folders of classes and npz files."""
    found = {name: _locate(name, directory)[0] for name in KNOWN if not _absent(name, directory)}
    taken = {place.relative_to(directory).parts[0] for place in found.values() if place != directory}
    others = [entry for entry in visible(directory) if entry.name not in taken]
    folders = [entry for entry in others if entry.is_dir() and has_classes(unwrapped(entry))]
    if directory not in found.values() and has_classes(directory):
        folders = [directory]
    npz = [f"npz:{entry.stem}" for entry in others if entry.suffix.lower() == ".npz"]
    return [*found, *(f"folder:{entry.resolve().name}" for entry in folders), *npz]


def resolve_dataset(name: str, directory: Path | None) -> str:
    """The data set that ``name`` means: for ``auto(X)`` X if a folder is given, else the embedded digits.

    ``optional(X)``, formerly ``perhaps(X)``, is X only if that folder has files of it. Spellings such as CIFAR-10 or
    tiny_imagenet name the known data sets too. Raises DataError for an unknown name.
    """
    wanted = re.fullmatch(r"(auto|optional|perhaps)\((.*)\)", name)
    if name == SYNTHETIC:
        return name
    plain = wanted[2] if wanted else name
    plain = _known_name(plain) or plain
    if plain not in dataset_names() and not re.fullmatch(r"(npz|folder):\w[\w.,+() -]*", plain):
        raise DataError(f"no data set {plain!r}; expected {', '.join(dataset_names())}, npz:NAME or folder:NAME")
    if wanted is None:
        return plain
    absent = directory is None or (wanted[1] != "auto" and plain != EMBEDDED and _absent(plain, directory))
    return EMBEDDED if absent else plain


def _known_name(name: str) -> str | None:
    letters = re.sub(r"[-_]", "", name).lower()
    return letters if letters in dataset_names() else None


def _absent(name: str, directory: Path) -> bool:
    try:
        _locate(name, directory)
    except DataError as error:  # incomplete files are an error of the user, not absence
        return isinstance(error, AbsentError)
    return False


def check_dataset(name: str, directory: Path | None) -> None:
    """Raise DataError if there is no such data set, or files are missing or damaged. Pixels are not read.

    Of picture files headers and ends are read; those that look incomplete are decoded.
    """
    name = resolve_dataset(name, directory)
    if name in PACKAGED:
        return
    with _naming(name):
        stored, known = _open(name, directory)
        refuse_damaged(sorted([*stored.train.paths, *stored.test.paths]), whole=False)
        *_, notes = number_labels(stored, known.classes)
        _tell(name, notes)


class Examined(NamedTuple):
    """Result of reading all of a data set."""

    pictures: int
    damaged: list[str]  # picture files with the reason
    notes: list[str]  # what the files leave open


def examine_dataset(name: str, directory: Path | None) -> Examined:
    """Read and decode every picture of a data set. Raises DataError for anything else that is wrong with it."""
    name = resolve_dataset(name, directory)
    with _naming(name):
        stored, known = _open(name, directory)
        *_, notes = number_labels(stored, known.classes)
        parts = (stored.train, stored.test)
        for part in parts:
            if not part.paths:
                part.read(known.side)
        paths = [path for part in parts for path in part.paths]
        return Examined(sum(part.size for part in parts), damaged(paths, whole=True), notes)


class DatasetSize(NamedTuple):
    """Number of classes and of samples of a data set."""

    classes: int
    train: int
    test: int
    length: int | None = None  # of a sequence of tokens; None for pictures, 0 for sequences of any length


@cached_reading
def dataset_size(name: str, directory: Path | None) -> DatasetSize:
    """The size of a resolved data set, for which no picture file is decoded. Raises DataError."""
    if name == SYNTHETIC:
        return DatasetSize(SYNTHETIC_CLASSES, *SYNTHETIC_SEQUENCES, 0)
    with _naming(name):
        stored, known = _open(name, directory)
        labels, classes, _ = number_labels(stored, known.classes)
    return DatasetSize(len(classes), len(labels[0]), len(labels[1]), stored.train.length)


def recorded_name(name: str, directory: Path | None) -> str:
    """The name of the data set in records; npz files may contain their own. Raises DataError."""
    name = resolve_dataset(name, directory)
    if name in PACKAGED:
        return name
    with _naming(name):
        place, layout, _ = _locate(name, directory)
        return npz_name(place) if layout.read is read_npz else name


def place_of(name: str, directory: Path | None) -> Path | None:
    """The file or folder that holds data set ``name``; None for one that is packaged, "none", or not there."""
    if name in (*PACKAGED, "none"):
        return None
    try:
        return _locate(name, directory)[0]
    except DataError:
        return None


def load_dataset(name: str, directory: Path | None, side: int | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: A data set, ``auto(X)`` or ``optional(X)``.
        directory: The user's folder; None for the embedded digits.
        side: Height and width to which the centre square is scaled bilinearly. None: arrays as stored, picture files
            at the data set's side, digits at DIGITS_SIDE. For tokens the length of drawn sequences.

    Raises:
        DataError: An unknown data set, or missing or damaged files.
    """
    name = resolve_dataset(name, directory)
    if side is not None and side < 1:
        raise DataError(f"{name}: side {side}, expected at least 1")
    if name == SYNTHETIC:
        drawn = [drawn_tokens(n, side or 1, SYNTHETIC_CLASSES, seed) for seed, n in enumerate(SYNTHETIC_SEQUENCES)]
        return token_data(name, DIGITS, drawn)
    with _naming(name):
        stored, known = _open(name, directory)
        labels, classes, notes = number_labels(stored, known.classes)
        _tell(name, notes)
        if stored.train.length is not None:
            sequences = (part.read(0) for part in (stored.train, stored.test))
            return token_data(stored.name or name, classes, zip(sequences, labels, strict=True))
        train, test = (_sized(part.read(side or known.side), side) for part in (stored.train, stored.test))
        mean, std = known.statistics or statistics(train)
    return Dataset(
        stored.name or name, classes, Pictures(train, labels[0], mean, std), Pictures(test, labels[1], mean, std)
    )


def _tell(name: str, notes: Iterable[str]) -> None:
    for note in notes:
        _tell_once(f"{name}: {note}")


@functools.cache
def _tell_once(note: str) -> None:
    logger.warning("%s", note)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (DataError, OSError) as error:
        raise DataError(f"{name}: {error}") from None


def _sized(images: Images, side: int | None) -> Images:
    return images if side is None or images.shape[1:3] == (side, side) else Resized(images, side)


def _open(name: str, directory: Path | None) -> tuple[Stored, Known]:
    """Labels and headers of a resolved data set. Raises DataError."""
    if name == EMBEDDED:
        return arrays.read_digits(), Known((), DIGITS, side=DIGITS_SIDE)
    place, layout, known = _locate(name, directory)
    try:
        return layout.open(place, known.classes), known
    except DataError as error:
        if layout.read is read_folder and (owner := _owner(place)):
            raise DataError(f"{error}; these are files of {owner}: name that, with {place} as the folder") from None
        raise


def _owner(place: Path) -> str | None:
    """The known data set whose files ``place`` has."""
    layouts = ((name, layout) for name, known in KNOWN.items() for layout in known.layouts)
    return next((name for name, layout in layouts if layout.claims is not has_parts and layout.owns(place)), None)


def _locate(name: str, directory: Path | None) -> tuple[Path, Layout, Known]:
    """Place of ``name``, and its layout there. Raises AbsentError if no layout is found."""
    if directory is None:
        raise DataError(f"needs a folder with its files; only {EMBEDDED} is packaged")
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder")
    known = KNOWN.get(name) or _own(name, directory)
    for place_in in (Layout.place_in, Layout.place_below):
        for layout in known.layouts:
            if place := place_in(layout, directory):
                return place, layout, known
    expected = ", or ".join(layout.text for layout in known.layouts)
    there = "" if name in KNOWN else f"; it holds {', '.join(names_in(directory)) or 'no data set'}"
    packed = [entry.name for entry in visible(directory) if entry.name.lower().endswith(ARCHIVES)]
    unpack = f"; unpack {', '.join(packed)} first" if packed else ""
    raise AbsentError(f"not found in {directory}; expected {expected}{there}{unpack}")


def _own(name: str, directory: Path) -> Known:
    """The layout of ``npz:NAME``, the file NAME.npz, or ``folder:NAME``, the folder NAME, which may be the user's."""
    kind, _, stem = name.partition(":")
    if kind == "npz":
        return Known((_npz(f"{stem}.npz"),))
    places = (stem, ".") if directory.resolve().name == stem else (stem,)
    return Known((Layout(places, CLASS_FOLDERS, read_folder, claims=Path.is_dir),))
