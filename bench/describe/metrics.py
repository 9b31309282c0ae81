"""Metrics of an experiment with their units, read from its source: each ``Measurement(...)`` that it can reach.

A metric whose name is only known when the experiment runs is shown by a pattern, ``*_slope`` for ``f"{name}_slope"``.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from bench.suite.experiment import Measurement

SOME = "*"  # what a name is made of at run time


def metrics_of(function: Callable[..., Any]) -> dict[str, str]:
    """The unit of each metric that ``function`` may yield, by name."""
    found: dict[str, str] = {}
    seen: set[Any] = set()
    waiting: list[Any] = [function]
    root = function.__module__.rpartition(".")[0] or function.__module__
    ours = ("bench.experiments", root)
    while waiting:
        one = waiting.pop(0)
        if one in seen:
            continue
        seen.add(one)
        tree, names = _tree(one), _names(one)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Call) and _resolved(node.func, names) is Measurement:
                for name, unit in _measurement(node, names):
                    found.setdefault(name, unit)
            elif isinstance(node, ast.Name | ast.Attribute):
                other = _resolved(node, names)
                if (inspect.isfunction(other) or inspect.isclass(other)) and other.__module__.startswith(ours):
                    waiting.append(inspect.unwrap(other))
    return found


def _tree(one: Any) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(one)))
    except (OSError, TypeError, SyntaxError):
        return None


def _names(one: Any) -> dict[str, Any]:
    return vars(inspect.getmodule(one)) if inspect.getmodule(one) else {}


def _resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_resolved(node.value, names), node.attr, None)
    return None


def _measurement(call: ast.Call, names: dict[str, Any]) -> Iterator[tuple[str, str]]:
    given = dict(zip(("metric", "value", "unit"), call.args, strict=False))
    given |= {one.arg: one.value for one in call.keywords if one.arg}
    units = list(_texts(given["unit"], names)) if "unit" in given else [SOME]
    for name in _texts(given["metric"], names) if "metric" in given else ():
        yield name, units[0] if len(units) == 1 else SOME


def _texts(node: ast.expr, names: dict[str, Any]) -> Iterator[str]:
    """The texts that ``node`` may be."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(text for part in node.values for text in [*_texts(part, names)][:1])
    elif isinstance(node, ast.FormattedValue):
        yield from _texts(node.value, names)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, names)
        yield from _texts(node.orelse, names)
    else:
        known = _resolved(node, names)
        yield known if isinstance(known, str) else SOME
