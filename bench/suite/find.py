"""Where suites are, and what each says before anything of it is checked."""

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

from bench.suite.document import Document, read_or_note
from bench.suite.expansion import expand
from nodes.imports import did_you_mean, registered, registered_names


def packaged() -> dict[str, Path]:
    """The suites of this package, and of packages that register theirs, by the name that each file gives.

    A package registers the module in whose folder its suites are, as an entry point of ``splitmec.suites``.
    """
    found = {}
    for folder in (*_registered_folders(), Path(str(resources.files("suites")))):  # the last of a name counts
        for path in folder.rglob("*.yaml"):
            if name := _name(path):
                found[name] = path
    return dict(sorted(found.items()))


def _registered_folders() -> Iterator[Path]:
    for name in registered_names("suites"):
        with suppress(ImportError, ValueError):  # one that is broken takes no suite away from the others
            yield Path(str(resources.files(registered("suites", name) or "")))


def _name(path: Path) -> str | None:
    found = re.search(r"^name: *([\w.-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def own_name(asked: str) -> str:
    """The name that the suite which ``asked`` means gives itself."""
    path = find(asked, Path())
    return _name(path) or path.stem


def find(name: str, folder: Path) -> Path:
    """The file that ``name`` means: a path from ``folder``, else a packaged suite. Raises ValueError."""
    path = folder / name
    if path.is_file():
        return path
    known = packaged()
    if name not in known:
        raise ValueError(f"no file and no packaged suite {name!r}{did_you_mean(name, known)}")
    return known[name]


def read_suite(path: Path) -> Document:
    """The suite at ``path`` with its short forms spelt out, as far as it can be read; problems are noted."""
    document = read_or_note(path)
    expand(document, find)
    return document
