"""Picture files: which files are pictures, a quick check for damage, and decoding.

A picture is turned upright as its EXIF orientation says, and its pixels become 8-bit RGB: 16 bits a channel are scaled
(65,535 to 255), palettes looked up, grey and CMYK converted, transparent pixels laid on white; of an animation the
first frame counts.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nodes.data.images import Bytes, Images, Indices, Lazy, Selected
from nodes.data.stored import HIDDEN
from nodes.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

KEPT_BYTES = 1 << 30  # largest split whose decoded pictures stay in memory
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
UNREAD = (".heic", ".heif", ".avif", ".jp2", ".svg", ".dcm", ".npy", ".mat")  # pictures in other forms
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}  # near the end of a complete file
TAIL_BYTES = 64
GROUP = 16  # pictures that a thread takes at once
CHUNK = 1024  # pictures that are decoded before they are kept
MOST_PIXELS = 1 << 27  # of a picture: 400 MB decoded
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")  # modes with an alpha channel

T = TypeVar("T")


def is_picture(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    return name.lower().endswith(suffixes) and not HIDDEN.fullmatch(name)


def pictures_below(folder: Path) -> list[Path]:
    """Picture files in ``folder`` and its folders, always in the same order; links are followed, but not upwards."""
    return list(walked(folder))


def walked(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """``pictures_below``, one after the other; of other files with ``suffixes``."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not HIDDEN.fullmatch(name) and not _leads_back(place, name))
        yield from (Path(place, name) for name in sorted(files) if is_picture(name, suffixes))


def _leads_back(place: str, name: str) -> bool:
    """Whether the folder ``name`` in ``place`` is a link to ``place`` or what holds it."""
    path = Path(place, name)
    return path.is_symlink() and Path(place).resolve().is_relative_to(path.resolve())


class Files(Lazy):
    """Picture files, decoded on first use and kept if the split takes at most KEPT_BYTES."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self._paths, self._side = paths, side
        self.shape = (len(paths), side, side, 3)
        keep = len(paths) * side * side * 3 <= KEPT_BYTES
        self._kept: Bytes | None = np.zeros(self.shape, np.uint8) if keep else None
        self._decoded = np.zeros(len(paths), bool)

    def decode(self, indices: Indices) -> None:
        """Decode the pictures at ``indices`` now, if they are kept. Raises DataError that names all damaged files."""
        if self._kept is None:
            return
        fresh = np.unique(indices[~self._decoded[indices]])
        for start in range(0, len(fresh), CHUNK):
            some = fresh[start : start + CHUNK]
            self._kept[some] = self._read(some)
            self._decoded[some] = True

    def _take(self, indices: Indices) -> Bytes:
        self.decode(indices)
        return self._read(indices) if self._kept is None else self._kept[indices]

    def _read(self, indices: Indices) -> Bytes:
        try:
            found = _in_threads(lambda path: decode(path, self._side), [self._paths[index] for index in indices])
        except DataError:
            refuse_damaged(self._paths, whole=True)
            raise
        return np.array(found, np.uint8).reshape(len(indices), *self.shape[1:])


def decode_now(images: Images, indices: Indices) -> None:
    """Decode the picture files among ``images`` at ``indices`` now. Raises DataError that names all damaged files."""
    if isinstance(images, Selected):
        decode_now(images.images, images.indices[indices])
    elif isinstance(images, Files):
        images.decode(indices)


def refuse_damaged(paths: Sequence[Path], whole: bool) -> None:
    """Raise DataError that names all of ``paths`` that cannot be decoded, if there are any; see ``damaged``."""
    if found := damaged(paths, whole):
        raise DataError(f"{len(found)} of {len(paths):,} pictures cannot be decoded: {'; '.join(found)}")


def damaged(paths: Sequence[Path], whole: bool) -> list[str]:
    """The files that cannot be decoded, each with the reason.

    Without ``whole`` only headers and the ends of files are read, and files that look incomplete are decoded.
    """
    found = _in_threads(lambda path: _damage(path, whole), paths)
    return [line for line in found if line is not None]


def _in_threads(function: Callable[[Path], T], paths: Sequence[Path]) -> list[T]:
    groups = [paths[start : start + GROUP] for start in range(0, len(paths), GROUP)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda group: [function(path) for path in group], groups))
    return [result for group in results for result in group]


def decode(path: Path, side: int) -> Bytes:
    """The centre square of a picture file, upright, scaled bilinearly to (side, side, 3).

    A JPEG of at least twice the side is decoded at 1/2, 1/4 or 1/8, which saves most of the time.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415

    with _opened(path) as picture:
        picture.draft("RGB", (side, side))
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(ImageOps.fit(_as_rgb(upright), (side, side), Image.Resampling.BILINEAR))


def _damage(path: Path, whole: bool) -> str | None:
    try:
        with _opened(path) as picture:
            if whole or not _looks_complete(path, picture.format):
                _as_rgb(picture)
    except DataError as error:
        return str(error)
    return None


def _looks_complete(path: Path, kind: str | None) -> bool:
    with path.open("rb") as file:
        file.seek(-min(TAIL_BYTES, path.stat().st_size), os.SEEK_END)
        return kind in ENDS and ENDS[kind] in file.read()


@contextmanager
def _opened(path: Path) -> Iterator["Image.Image"]:
    """The picture file ``path``; whatever goes wrong with it is a DataError."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} (no regular file)")
        with Image.open(path) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise DataError(f"{path} ({width} x {height} pixels, expected at most {MOST_PIXELS:,})")
            yield picture
    except DataError:
        raise
    except UnidentifiedImageError:
        why = "no picture of a known format" if path.stat().st_size else "empty"
        raise DataError(f"{path} ({why})") from None
    except Exception as error:  # Pillow raises errors of all kinds for damaged files
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{path} ({why})") from None


def _as_rgb(picture: "Image.Image") -> "Image.Image":
    from PIL import Image  # noqa: PLC0415

    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixels from {values.min()} to {values.max()}; expected 8 or 16 bits a channel")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("pixels are 32-bit floats; expected 8 or 16 bits a channel")
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        laid = Image.new("RGBA", picture.size, "white")
        laid.alpha_composite(picture.convert("RGBA"))
        return laid.convert("RGB")
    return picture.convert("RGB")
