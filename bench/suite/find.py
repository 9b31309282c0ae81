"""Where suites are, and what each says before anything of it is checked."""

import re
from importlib import resources
from pathlib import Path

from bench.suite.document import Document, read_or_note
from bench.suite.expansion import expand
from nodes.imports import did_you_mean


def packaged() -> dict[str, Path]:
    """The suites that come with the package, by the name that each file gives."""
    found = {}
    for path in Path(str(resources.files("suites"))).rglob("*.yaml"):
        if name := _name(path):
            found[name] = path
    return dict(sorted(found.items()))


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
