"""What stands on which line of a YAML file? Reads strictly; every error names file, line and key.

Numbers, booleans and null are those of YAML 1.2's core schema, so ``1e-3`` is a number and ``no`` is
text. Duplicate keys, aliases, tags of one's own and numbers that are not finite are errors.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str | int, ...]

SCALARS = {  # a plain scalar's type, by YAML 1.2's core schema: pattern and possible first characters
    "null": (r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    "int": (r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
}
TAG = "tag:yaml.org,2002:"


class InputError(ValueError):
    """Input that cannot be used; ``lines`` has one "file:line: key: message" for each error in it."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core schema in place of 1.1's, and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not supported; write the value out",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)


for _name, (_pattern, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(TAG + _name, re.compile(rf"^{_pattern}$"), _first)


class Document:
    """A YAML file as plain values, the line of each, and what was wrong with it so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.value: Any = None
        self.marks: dict[Key, int] = {(): 1}
        self.problems: dict[tuple[Key, str], int] = {}  # the line of each (key, message)
        self.unreadable: set[Key] = set()  # values that are wrong whatever type is expected

    def line(self, key: Key) -> int:
        """The line of ``key``, or of the nearest part of the file that holds it."""
        while key not in self.marks:
            key = key[:-1]
        return self.marks[key]

    def problem(self, key: Key, message: str) -> None:
        """Note that ``key`` is wrong."""
        self.problems[key, " ".join(message.split())] = self.line(key)

    def wrong(self, at: Key) -> set[str | int]:
        """The keys (or indices) of what stands at ``at`` in which problems were noted."""
        depth = len(at)
        return {key[depth] for key, _ in self.problems if key[:depth] == at and len(key) > depth}

    @property
    def lines(self) -> list[str]:
        """Every problem noted, in the order of the file."""
        problems = sorted(self.problems.items(), key=lambda item: item[1])
        return [self.told(key, message, line) for (key, message), line in problems]

    def told(self, key: Key, message: str, line: int | None = None) -> str:
        """``message`` of what stands at ``key``, as a line for people."""
        return f"{self.path}:{line or self.line(key)}: {key_text(key)}: {message}"

    def check(self) -> None:
        """Raise InputError if anything was wrong."""
        if self.problems:
            raise InputError(self.lines)


def key_text(key: Key) -> str:
    """``("a", 0, "b")`` as people write it: ``a[0].b``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".") or "document"


def read(path: Path) -> Document:
    """Read ``path``. Raises InputError where it cannot be read as YAML at all; other problems are noted."""
    document = Document(path)
    try:
        text = path.read_bytes().decode()
        node = yaml.compose(text, Loader=_Loader)
    except OSError as error:
        document.problem((), f"cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        document.problem((), "is not UTF-8 text")
    except yaml.reader.ReaderError as error:
        document.marks[()] = text[: error.position].count("\n") + 1
        document.problem((), f"holds the character U+{error.character:04X}, which YAML does not allow")
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            document.marks[()] = error.problem_mark.line + 1
        document.problem((), f"is not YAML: {error.problem}")
    except RecursionError:
        document.problem((), "is nested too deeply")
    else:
        if node is None:
            document.problem((), "is empty")
        else:
            document.value = _value(document, (), node)
            return document
    raise InputError(document.lines)


def _value(document: Document, key: Key, node: yaml.Node) -> Any:
    document.marks.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(document, (*key, index), item) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, key, node)
    try:
        return _scalar(node.tag, node.value)
    except ValueError as error:
        document.problem(key, str(error))
        document.unreadable.add(key)
        return None


def _mapping(document: Document, key: Key, node: yaml.MappingNode) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, item in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            document.problem(key, f"line {line}: a key must be text")
            continue
        at = (*key, name.value)
        if name.value in mapping:
            first = document.marks[at]
            document.marks[at] = line
            document.problem(at, f"duplicate key, first given on line {first}")
            continue
        document.marks[at] = line
        mapping[name.value] = _value(document, at, item)
    return mapping


def _scalar(tag: str, text: str) -> Any:
    match tag.removeprefix(TAG):
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        case "float":
            number = math.inf if text.lower().endswith(("inf", "nan")) else float(text)
            if not math.isfinite(number):
                raise ValueError(f"a number must be finite, got {text}")
            return number
    raise ValueError(f"the tag {tag} is not supported")
