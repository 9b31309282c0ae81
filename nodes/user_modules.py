"""Modules in users' folders, each folder's apart: two suites may each have a ``mine.py``. Imports no torch."""

import ast
import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import TypeVar

from nodes.files import commands

T = TypeVar("T")
PROJECT = ("bench", "netem", "nodes", "reports", "suites")
INSTALLED = ("site-packages", "dist-packages")  # folders that packages are installed in


class UserModules:
    """The modules in ``folders``, absolute paths of which the first counts; see ``user_modules``."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = tuple(folders)
        self.generation = 0  # counts what was forgotten
        self.contents: dict[str, str] = {}  # SHA-256 of the files that were loaded
        self._found: set[str] = set()  # top-level names
        self._path: list[str] = []  # the search path without these folders; empty unless in use
        self._added: list[str] = []  # what these modules added to it
        self._loaded: dict[str, ModuleType] = {}  # while these modules are not in use

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let imports find these modules, and none of another user's folder."""
        global _current  # noqa: PLW0603  (as sys.modules is one for all threads)
        if _current is self:
            yield
            return
        outer, path = _current, list(sys.path)
        self._path = outer._path if outer else path
        here = {entry.name.removesuffix(".py") for folder in self.folders for entry in _entries(folder)}
        others = _taken({*(outer._found if outer else ()), *filter(self._has, here & _top_level(sys.modules))})
        sys.modules.update(self._loaded)
        # The search path serves processes that users' code starts.
        sys.path[:] = dict.fromkeys([*self._path, *self.folders, *self._added])
        _current = self
        importlib.invalidate_caches()
        try:
            yield
        finally:
            self._added = [one for one in sys.path if one not in self._path and one not in self.folders]
            _current, sys.path[:] = outer, path
            self._path, self._loaded = [], _taken(self._found)
            sys.modules.update(others)

    def find_spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if not (self._has(top) if path is None else top in self._found):
            return None
        spec = PathFinder.find_spec(name, self.folders if path is None else path)
        if spec:
            self._found.add(top)
            if isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Loader(self, name, spec.loader.path)
        return spec

    def forget_changed(self) -> None:
        """Forget what was loaded if a file of it has changed since."""
        if not self._path and any(_sha256(path) != then for path, then in self.contents.items()):
            self.contents, self._found, self._loaded = {}, set(), {}
            self.generation += 1

    def files(self, module: str) -> list[Path]:
        """Files of ``module`` and of all that it imports, by their text alone, but for installed packages."""
        found: dict[Path, None] = {}
        names = [module]
        for name in names:  # grows
            for file, package in self._files_of(name):
                if file not in found:
                    found[file] = None
                    names += _imports(file.read_bytes(), package)
        return list(found)

    def _has(self, top: str) -> bool:
        return any(_there(folder, top) for folder in self.folders) and not _is_installed(top)

    def _files_of(self, name: str) -> Iterator[tuple[Path, str]]:
        """The file of a module and those of the packages around it, with the package that each belongs to."""
        top, *rest = name.split(".")
        for folder in () if _is_installed(top) else (*self.folders, *sys.path):
            if _there(folder, top):
                place, parts = Path(folder or os.curdir), [top, *rest]
                for depth in range(1, len(parts) + 1):
                    package, inner = ".".join(parts[:depth]), place.joinpath(*parts[:depth])
                    if (inner / "__init__.py").is_file():
                        yield (inner / "__init__.py").resolve(), package
                    elif inner.with_suffix(".py").is_file():
                        yield inner.with_suffix(".py").resolve(), package.rpartition(".")[0]
                return


class _Loader(SourceFileLoader):
    """Compiles what the file holds now; cached bytecode may be of another text of the same second and length."""

    def __init__(self, modules: UserModules, name: str, path: str) -> None:
        super().__init__(name, path)
        self._modules = modules

    def get_code(self, fullname: str) -> CodeType | None:
        data = self.get_data(self.path)
        self._modules.contents[self.path] = hashlib.sha256(data).hexdigest()
        return self.source_to_code(data, self.path)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None and _is_kept(name) and _asks_package():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return _current.find_spec(name, path) if _current else None


def keep_from_packages(*folders: str) -> None:
    """Keep the modules in ``folders`` from imports of installed packages, which look for optional ones by name."""
    _working.update(dict.fromkeys(folders))
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


def working_folders() -> list[str]:
    """The folders whose modules only the project and users' code import."""
    return list(_working)


def _is_kept(top: str) -> bool:
    """Whether ``top`` is a module of a user's folder, and no installed one."""
    folders = (*_working, *folders_in_use())
    return any(_there(folder, top) for folder in folders) and not _is_installed(top)


def _asks_package() -> bool:
    """Whether the code that imports is that of an installed package, and not the project's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module != __name__ and module.partition(".")[0] != "importlib":
            is_installed = any(f"{os.sep}{folder}{os.sep}" in frame.f_code.co_filename for folder in INSTALLED)
            return is_installed and module.partition(".")[0] not in PROJECT
        frame = frame.f_back
    return False


_working: dict[str, None] = {}  # the folder in which a command was started
_current: UserModules | None = None
_known: dict[tuple[str, ...], UserModules] = {}


def user_modules(folders: Iterable[Path | str]) -> UserModules:
    """The modules in ``folders``, the same object each time."""
    names = tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders))
    keep_from_packages()
    return _known.setdefault(names, UserModules(names))


def folders_in_use() -> tuple[str, ...]:
    return _current.folders if _current else ()


def cached_by_modules(maxsize: int | None = None) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """``functools.lru_cache`` for functions that names of modules are passed to: apart for each user's folders.

    Results of users' modules, which may read files, are kept for one command.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        kept = functools.lru_cache(maxsize)(lambda _modules, *arguments: function(*arguments))

        @functools.wraps(function)
        def call(*arguments: object) -> T:
            loaded = _current is not None and bool(_current.contents)
            generation = _current.generation if _current else 0
            return kept((folders_in_use(), generation, commands() if loaded else 0), *arguments)

        return call

    return decorate


@functools.cache
def _is_installed(top: str) -> bool:
    if top in PROJECT or top in sys.stdlib_module_names:
        return True
    return PathFinder.find_spec(top, [folder for folder in sys.path if Path(folder).name in INSTALLED]) is not None


def _there(folder: str, top: str) -> bool:
    place = Path(folder or os.curdir, top)
    return place.is_dir() or place.with_suffix(".py").is_file()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _top_level(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def _taken(tops: set[str]) -> dict[str, ModuleType]:
    """The modules of these top-level names, taken out of ``sys.modules``."""
    names = [name for name in sys.modules if name.partition(".")[0] in tops]
    return {name: sys.modules.pop(name) for name in names}


def _sha256(path: str) -> str | None:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Names of the modules that ``source``, a module of ``package``, imports anywhere in it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # its import tells
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
