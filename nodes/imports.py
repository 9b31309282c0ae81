"""Loading of ``module:callable`` names, names that packages register, and suggestions. Imports no torch."""

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

from nodes.errors import one_line
from nodes.user_code import contained

Group = Literal["stages", "models", "schemes", "experiments", "suites"]
BUILT_IN_PACKAGES = ("nodes.zoo", "nodes.stages", "nodes.federated.schemes", "torchvision.models")
_allowed: frozenset[str] | None = None  # modules beside these; None: any


def registered(group: Group, name: str) -> str | None:
    """What installed packages register as ``name``: the ``module:callable`` of an entry point ``splitmec.<group>``.

    Raises ValueError if two packages register the name for different things.
    """
    found = sorted(_entry_points(group).get(name, ()))
    if len(found) > 1:
        raise ValueError(f"{name!r} is registered for {' and '.join(found)}; write the one that is meant")
    return found[0] if found else None


def registered_names(group: Group) -> list[str]:
    """The names that installed packages register under ``splitmec.<group>``."""
    return sorted(_entry_points(group))


@functools.cache
def _entry_points(group: Group) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in importlib.metadata.entry_points(group=f"splitmec.{group}"):
        found.setdefault(one.name, set()).add(one.value)
    return found


@contextlib.contextmanager
def modules_allowed(modules: Iterable[str]) -> Iterator[None]:
    """Let names of ``module:callable`` lead to ``modules``, built-in and registered ones alone, in this process."""
    global _allowed  # noqa: PLW0603  (one for all jobs of a node)
    before, _allowed = _allowed, frozenset(modules)
    try:
        yield
    finally:
        _allowed = before


def _is_within(module: str, packages: Iterable[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in packages)


def _check_allowed(name: str, module: str) -> None:
    """Raise ValueError if this process may not import ``module``."""
    if _allowed is None or _is_within(module, (*BUILT_IN_PACKAGES, *_allowed)):
        return
    groups: tuple[Group, ...] = get_args(Group)
    values = [value for group in groups for found in _entry_points(group).values() for value in found]
    if module not in {value.partition(":")[0] for value in values}:
        raise ValueError(f"{name}: this node may not import {module}; start it with --allow {module} if you trust it")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where one of ``known`` looks like ``word``, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def load_callable(name: str) -> Callable[..., Any]:
    """Import the function or class ``module:callable``. Raises ValueError, whatever its import raises."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{name!r} is not of the form module:callable")
    _check_allowed(name, module_name)
    try:
        with contained():
            module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way
        raise ValueError(f"{module_name} cannot be imported: {one_line(error)}") from error
    try:
        found: Callable[..., Any] = operator.attrgetter(attribute)(module)
    except AttributeError:
        raise ValueError(f"{module_name} has no {attribute!r}{did_you_mean(attribute, vars(module))}") from None
    if not callable(found):
        raise ValueError(f"{name} is not callable")
    if _is_within(module_name, BUILT_IN_PACKAGES):  # these import modules of Python's own
        _check_allowed(name, getattr(found, "__module__", None) or "builtins")
    return found
