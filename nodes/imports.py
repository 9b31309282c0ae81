"""Loading of ``module:callable`` names, and suggestions for misspelt words. Imports no torch."""

import difflib
import importlib
import operator
from collections.abc import Callable, Iterable
from typing import Any

from nodes.errors import one_line
from nodes.user_code import contained


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where one of ``known`` looks like ``word``, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def load_callable(name: str) -> Callable[..., Any]:
    """Import the function or class ``module:callable``. Raises ValueError, whatever its import raises."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{name!r} is not of the form module:callable")
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
    return found
