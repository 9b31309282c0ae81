"""Identity of a case: the content of all that decides its numbers, whatever its titles, folders and times are."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.suite.parameter_types import DatasetName
from nodes.user_modules import UserModules

RESULTS_VERSION = 3  # raise it with a change that alters numbers; tests/bench/execution/test_results_version.py tells
CALLABLE = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_][\w.]*")

Stamp = tuple[int, int, int]  # of a file: bytes, time of its last change in nanoseconds, inode

digests: dict[str, tuple[Stamp, str]] = {}  # of files read so far, by path; valid while the stamp is the same


class Source(NamedTuple):
    """A file or folder that decides a case, by the name that the user knows, with the SHA-256 of its content."""

    name: str
    path: Path
    sha256: str

    @property
    def changed(self) -> bool:
        return content(self.path) != self.sha256


def sources(
    names: Iterable[Any], modules: UserModules, data_dir: Path | None, read: Callable[[Path], str]
) -> tuple[Source, ...]:
    """The user's code and files that stand anywhere in ``names``: parameters, the name of a function or a data set.

    ``read`` is ``content``, or that with a memory.
    """
    found: dict[str, Path] = {}
    for name in _texts(names):
        if isinstance(name, DatasetName):
            if place := _place_of(name, data_dir):
                found[f"data set {name}"] = place
        elif match := CALLABLE.fullmatch(name):
            for file in modules.files(match[1]):
                own = next((folder for folder in modules.folders if file.is_relative_to(folder)), file.parent)
                found[str(file.relative_to(own))] = file
        elif _is_named_path(name):
            found[name] = Path(name).absolute()
    return tuple(Source(name, path, read(path)) for name, path in sorted(found.items()))


def identity(definition: Any, decided_by: Iterable[Source]) -> str:
    """SHA-256 of ``definition``, plain values, of the content of its sources and of RESULTS_VERSION."""
    return digest([RESULTS_VERSION, definition, [(source.name, source.sha256) for source in decided_by]])


def digest(value: Any) -> str:
    """The SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def content(path: Path) -> str:
    """The SHA-256 of a file, or of all files in a folder with their names; empty where there is none."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([(file.relative_to(path).as_posix(), content(file)) for file in files])
    try:
        status = path.stat()
        stamp = status.st_size, status.st_mtime_ns, status.st_ino
        known = digests.get(str(path))
        if not known or tuple(known[0]) != stamp:
            with path.open("rb") as file:
                digests[str(path)] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
        return digests[str(path)][1]
    except OSError:
        return ""


def _place_of(name: DatasetName, data_dir: Path | None) -> Path | None:
    if name == "none":
        return None
    from nodes.data.datasets import place_of  # noqa: PLC0415  (imports torch)

    return place_of(name, data_dir)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            yield from _texts(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts(item)


def _is_named_path(name: str) -> bool:
    """Whether ``name`` is a file, or a folder that is written as a path and does not hold the current one."""
    with suppress(OSError, ValueError):  # too long for a name, or a zero in it
        path = Path(name)
        return path.is_file() or ("/" in name and path.is_dir() and not Path.cwd().is_relative_to(path.resolve()))
    return False
