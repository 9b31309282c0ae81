"""YAML files read strictly, with the file, line and key of every value and of every error.

Numbers, booleans and null are those of YAML 1.2's core schema, so ``1e-3`` is a number and ``no`` is text. Duplicate
keys, aliases, own tags and numbers that are not finite are errors.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

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
MOST_BYTES = 1_000_000  # of a file
MOST_NESTED = 64  # lists and mappings within each other


class InputError(ValueError):
    """Input that cannot be used; ``lines`` has one "file:line: key: message" for each error in it."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class _Loader(yaml.CSafeLoader):
    """SafeLoader in C with YAML 1.2's core schema in place of 1.1's."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which the loader would take for something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way


for _name, (_pattern, _first) in SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(TAG + _name, re.compile(rf"^{_pattern}$"), _first)


@dataclass(frozen=True, eq=False)
class Node:
    """A value of a file and where it stands; a list's items and a mapping's values are Nodes themselves."""

    value: Any
    path: Path
    line: int
    key: Key
    unreadable: bool = False  # wrong whatever type is expected

    @property
    def parts(self) -> dict[Any, "Node"]:
        """A mapping's values by key, a list's items by index."""
        if isinstance(self.value, dict):
            return self.value
        return dict(enumerate(self.value)) if isinstance(self.value, list) else {}

    def mapped(self, change: "Callable[[Node], Node]") -> "Node":
        """This value with ``change`` applied to each of its parts."""
        parts = {key: change(part) for key, part in self.parts.items()}
        return replace(self, value=list(parts.values()) if isinstance(self.value, list) else parts)

    @property
    def plain(self) -> Any:
        """The value without where it stands."""
        if isinstance(self.value, dict):
            return {name: item.plain for name, item in self.value.items()}
        return [item.plain for item in self.value] if isinstance(self.value, list) else self.value


class Problem(NamedTuple):
    path: Path
    line: int
    key: Key
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {key_text(self.key)}: {self.message}"


class Document:
    """A YAML file as plain values, where each of them stands, and the problems found so far.

    ``place`` replaces the values by others, which may come from other files or from other parts of this one:
    keys are then those of the new value, but every problem is told of the file, line and key where it stands.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = [path]  # all that values come from
        self.problems: dict[Problem, None] = {}
        self.notes: dict[Problem, None] = {}  # of what is worth knowing and no error
        self._wrong: set[Key] = set()
        self.place(Node(None, path, 1, ()))

    def place(self, root: Node) -> None:
        self.root = root
        self.value = root.plain
        self._nodes = dict(_walk((), root))
        self.unreadable = {key for key, node in self._nodes.items() if node.unreadable}
        self._wrong |= self.unreadable

    def node(self, key: Key) -> Node:
        """The Node at ``key``, or the nearest that holds it."""
        while key not in self._nodes:
            key = key[:-1]
        return self._nodes[key]

    def at(self, key: Key, message: str) -> Problem:
        """``message`` of ``key``, told where that stands."""
        depth = next(depth for depth in range(len(key), -1, -1) if key[:depth] in self._nodes)
        node = self._nodes[key[:depth]]
        return Problem(node.path, node.line, (*node.key, *key[depth:]), " ".join(message.split()))

    def problem(self, key: Key, message: str) -> None:
        self._wrong.add(key)
        self.problems[self.at(key, message)] = None

    def note(self, node: Node, message: str, *rest: str | int) -> None:
        """Note that ``rest`` of ``node`` is wrong, whether or not the value still holds it."""
        self.problems[Problem(node.path, node.line, (*node.key, *rest), " ".join(message.split()))] = None

    def tell(self, key: Key, message: str) -> None:
        self.notes[self.at(key, message)] = None

    def absorb(self, other: "Document") -> None:
        """Take over the files and problems of ``other``, of which parts are placed here."""
        self.files += [path for path in other.files if path not in self.files]
        self.problems |= other.problems

    def wrong(self, at: Key) -> set[str | int]:
        """The keys (or indices) of what stands at ``at`` in which problems were noted."""
        depth = len(at)
        return {key[depth] for key in self._wrong if key[:depth] == at and len(key) > depth}

    @property
    def lines(self) -> list[str]:
        return [str(one) for one in sorted(self.problems, key=lambda one: (self.files.index(one.path), one.line))]

    def check(self) -> None:
        if self.problems:
            raise InputError(self.lines)


def key_text(key: Key) -> str:
    """``("a", 0, "b")`` as people write it: ``a[0].b``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".") or "document"


def as_yaml(value: Any) -> str:
    """Plain values as YAML text that ``read`` gives back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def read(path: Path) -> Document:
    """Read ``path``. Raises InputError where it cannot be read as YAML at all; other problems are noted."""
    document = read_or_note(path)
    if document.value is None:
        document.check()
    return document


def read_or_note(path: Path) -> Document:
    """Read ``path``; a file that cannot be read is a problem of the document, whose value is then None."""
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        document = Document(path)
        document.note(document.root, f"cannot be read: {error.strerror}")
        return document
    if data is None:
        document = Document(path)
        document.note(document.root, f"is larger than {MOST_BYTES:,} bytes, which takes seconds to read; divide it")
        return document
    return parse(path, data)


def parse(path: Path, data: bytes) -> Document:
    """The YAML ``data``, of which problems are told as of ``path``; its value is None where it is no YAML."""
    document = Document(path)
    line = 1
    try:
        text = data.decode()
        _check_events(text)
        node = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError:
        message = "is not UTF-8 text"
    except yaml.reader.ReaderError as error:
        line = data[: error.position].count(b"\n") + 1
        message = f"holds the character U+{error.character:04X}, which YAML does not allow"
    except yaml.MarkedYAMLError as error:
        found = error.problem_mark.line + 1 if error.problem_mark else 1
        line = min(found, len(text.splitlines()))  # not behind the end
        message = f"is not YAML: {error.problem}"
    else:
        if node is not None:
            document.place(_node(document, (), node, 1))
            return document
        message = "is empty"
    document.note(Node(None, path, line, ()), message)
    return document


def _check_events(text: str) -> None:
    """Refuse aliases, which the composer would follow, and a depth that would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases are not supported; write the value out"
        elif depth > MOST_NESTED:
            problem = f"nested more than {MOST_NESTED} deep"
        else:
            continue
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=cast(yaml.Mark, event.start_mark))


def _node(document: Document, key: Key, node: yaml.Node, line: int) -> Node:
    value: Any
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        value = [_node(document, (*key, index), item, item.start_mark.line + 1) for index, item in items]
    elif isinstance(node, yaml.MappingNode):
        value = _mapping(document, key, node)
    else:
        try:
            value = _scalar(node.tag, node.value)
        except ValueError as error:
            unreadable = Node(None, document.path, line, key, unreadable=True)
            document.note(unreadable, str(error))
            return unreadable
    return Node(value, document.path, line, key)


def _mapping(document: Document, key: Key, node: yaml.MappingNode) -> dict[str, Node]:
    mapping: dict[str, Node] = {}
    for name, item in node.value:
        line = name.start_mark.line + 1
        here = Node(None, document.path, line, key)
        if not isinstance(name, yaml.ScalarNode):
            document.note(here, "a key must be text")
        elif name.value in mapping:
            document.note(here, f"duplicate key, first given on line {mapping[name.value].line}", name.value)
        else:
            mapping[name.value] = _node(document, (*key, name.value), item, line)
    return mapping


def _walk(key: Key, node: Node) -> Iterator[tuple[Key, Node]]:
    yield key, node
    for name, part in node.parts.items():
        yield from _walk((*key, name), part)


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
