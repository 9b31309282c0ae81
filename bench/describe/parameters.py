"""Parameters of experiments, stages, models and schemes as rows: key, type, default, unit and comment."""

import ast
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from bench.suite.parameter_types import DatasetName, ModelName, WorkloadName

DEEPEST = 3  # mappings within each other that are described
UNITS = {
    **{"s": "s", "ms": "ms", "us": "µs", "hz": "Hz", "ghz": "GHz", "j": "J", "w": "W", "dbm": "dBm", "m": "m"},
    **{"bytes": "B", "bits": "bit", "bps": "bit/s", "mbps": "Mbit/s", "flops": "FLOP/s", "share": "fraction"},
    **{"ratio": "fraction", "loss": "fraction", "nats": "nats", "samples": "samples", "epochs": "epochs"},
}
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "any value"}
NAMES = {
    ModelName: "name of a model, or {name, options}",
    DatasetName: "name of a data set",
    WorkloadName: "name of a workload, or a file",
}


class Parameter(NamedTuple):
    """A parameter; ``key`` is dotted within mappings, ``default`` plain and absent (``UNSET``) where it is required."""

    key: str
    type: str
    default: Any
    unit: str
    comment: str

    @property
    def plain(self) -> dict[str, Any]:
        """The row for JSON; ``required`` stands for a default."""
        found = self._asdict()
        if self.default is msgspec.UNSET:
            del found["default"]
        return found | {"required": self.default is msgspec.UNSET}


def parameters_of(kind: type[msgspec.Struct]) -> Iterator[Parameter]:
    """Every parameter of ``kind``, those within mappings after the first mapping of their type."""
    return _parameters(kind, "", {})


def _parameters(kind: type[msgspec.Struct], within: str, known: dict[type, str]) -> Iterator[Parameter]:
    comments = comments_of(kind)
    for field in msgspec.structs.fields(kind):
        key = f"{within}{field.encode_name}"
        inner = [one for one in _structs(field.type) if key.count(".") < DEEPEST - 1]
        told = [comments.get(field.name, ""), *(f"keys as of {known[one]}" for one in inner if one in known)]
        comment = "; ".join(filter(None, told))
        yield Parameter(key, type_text(field.type), plain_default(field), unit_of(field.encode_name), comment)
        for one in inner:
            if one not in known:
                known[one] = key
                yield from _parameters(one, f"{key}.", known)


def parameters_of_callable(make: Callable[..., Any], skip: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """The keyword arguments of a constructor but for those to ``skip``."""
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    for name, one in inspect.signature(make).parameters.items():
        if name not in skip and one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD):
            default = msgspec.UNSET if one.default is one.empty else _plain(one.default)
            yield Parameter(name, type_text(hints.get(name, Any)), default, unit_of(name), "")


def unit_of(name: str) -> str:
    """The unit that a name ends in, ``link_mbps``; empty without one."""
    return UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""


def docs_of(kind: type) -> list[str]:
    """The docstrings of ``kind`` and of what it extends, each a paragraph."""
    own = [
        one for one in kind.__mro__ if one.__doc__ and one.__module__.partition(".")[0] not in ("msgspec", "builtins")
    ]
    return [inspect.cleandoc(one.__doc__ or "") for one in own]


def type_text(kind: Any) -> str:
    """A type in words, with its range."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_text(arguments[0]) + "".join(_range(one) for one in arguments[1:] if isinstance(one, msgspec.Meta))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_text, arguments)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is dict:
        return f"mapping of {type_text(arguments[1])}"
    if origin is not None:
        fixed = origin is tuple and arguments[-1:] != (...,)
        return f"[{', '.join(map(type_text, arguments))}]" if fixed else f"list of {type_text(arguments[0])}"
    return _class_text(kind)


def _class_text(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"mapping with {', '.join(field.encode_name for field in msgspec.structs.fields(kind)) or 'no key'}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(one.value) for one in kind)}"
    return NAMES.get(kind) or WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _range(meta: msgspec.Meta) -> str:
    limits = ((">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt))
    shown = [f"{sign} {limit:,}" for sign, limit in limits if limit is not None]
    pattern = [f"like {meta.pattern}"] if meta.pattern else []
    return f" ({', '.join(shown + pattern)})" if shown or pattern else ""


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    elif get_origin(kind) in (Annotated, Union, types.UnionType):
        for inner in get_args(kind):
            yield from _structs(inner)


def plain_default(field: msgspec.structs.FieldInfo) -> Any:
    """The default of ``field``, plain; ``UNSET`` where it is required."""
    if field.required:
        return msgspec.UNSET
    return _plain(field.default_factory() if field.default is msgspec.NODEFAULT else field.default)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=str, str_keys=True)


def comments_of(kind: type) -> dict[str, str]:
    """What stands behind the fields of ``kind`` in its source, by their names."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        try:
            source = inspect.cleandoc("\n" + inspect.getsource(one))
            (body,) = ast.parse(source).body
            tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        except (OSError, TypeError, SyntaxError, ValueError, tokenize.TokenError):
            continue
        by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        for field in body.body if isinstance(body, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[field.target.id] = by_line.get(field.end_lineno or 0, "")
    return found
