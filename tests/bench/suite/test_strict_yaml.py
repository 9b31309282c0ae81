"""Reading strictly: which numbers are numbers, and each error's line and key."""
# ruff: noqa: E501 - a case a line

import errno
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from bench.suite.document import InputError, read
from bench.suite.strict_yaml import convert


class Part(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=1)] = 1
    kind: Literal["small", "large"] = "small"


class Whole(msgspec.Struct):
    name: str
    rate: float = 0.0
    parts: list[Part] = []
    table: dict[str, list[int]] = {}
    pair: tuple[int, str] | None = None
    either: Part | list[Part] | None = None
    some: list[Literal["near", "far"] | Part] = []

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ValueError("rate is above 1")


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def values(folder: Path, text: str) -> Any:
    document = read(write(folder, text))
    document.check()
    return document.value


def errors(folder: Path, text: str | bytes) -> list[str]:
    """The errors of ``text`` as a Whole, without the file's name."""

    def load() -> None:
        document = read(write(folder, text))
        convert(document, Whole)
        document.check()

    with pytest.raises(InputError) as caught:
        load()
    prefix = f"{folder / 'x.yaml'}:"
    assert all(line.startswith(prefix) for line in caught.value.lines)
    return [line.removeprefix(prefix) for line in caught.value.lines]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("1E5", 1e5), ("-.5e+2", -50.0), ("1.", 1.0), ("+1.5", 1.5)],
        *[("010", 10), ("0o10", 8), ("0x1F", 31), ("-3", -3)],
        *[("no", "no"), ("on", "on"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000")],
        *[("true", True), ("FALSE", False), ("~", None), ("", None), ("null", None)],
        *[("'1e-3'", "1e-3"), ("e3", "e3"), ("1e", "1e"), (".", "."), ("=", "="), ("<<", "<<")],
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    found = values(tmp_path, f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: document: is empty"]),
        ("# nothing\n", ["1: document: is empty"]),
        ("- a", ["1: document: expected a mapping with name, rate, parts, table, pair, either, some"]),
        (b"\xff\xfe\x00", ["1: document: is not UTF-8 text"]),
        (b"PK\x03\x04\x00\x00", ["1: document: holds the character U+0003, which YAML does not allow"]),
        ("a: é\nb: x\0y\nc: 1\0".encode(), ["2: document: holds the character U+0000, which YAML does not allow"]),
        ("name: a\nrate: [1", ["2: document: is not YAML: "]),
        ("name: &a b\nrate: *a", ["2: document: is not YAML: aliases are not supported; write the value out"]),
        ("name: a\nrate: 1\nrate: 1", ["3: rate: duplicate key, first given on line 2"]),
        ("name: a\nrate: .inf", ["2: rate: a number must be finite, got .inf"]),
        ("name: a\nrate: 1e999", ["2: rate: a number must be finite, got 1e999"]),
        ("name: !!python/name:os.system a", ["1: name: the tag tag:yaml.org,2002:python/name:os.system is not supported"]),
        ("name: a\n? [b]\n: 1", ["2: document: a key must be text"]),
        ("name: a\nraet: 1", ["2: raet: unknown key (did you mean 'rate'?)"]),
        ("rate: 1", ["1: name: this key is required"]),
        ("name: a\nrate: '1'", ["2: rate: "]),
        ("name: a\nrate: 2", ["1: document: rate is above 1"]),
        ("name: a\nparts:\n- kind: large\n- {size: 0}", ["4: parts[1].size: "]),
        ("name: a\nparts: [{kind: larg}]", ["2: parts[0].kind: 'larg' is none of small, large (did you mean 'large'?)"]),
        ("name: a\ntable:\n  x: [1]\n  y:\n  - 1\n  - b", ["6: table.y[1]: "]),
        ("name: a\npair:\n- 1\n- 2", ["4: pair[1]: "]),
        ("name: a\neither: {sise: 1}", ["2: either.sise: unknown key (did you mean 'size'?)"]),
        ("name: a\neither:\n- {size: 1}\n- {size: b}", ["4: either[1].size: "]),
        ("name: a\nsome: [near, {size: 1}, foo]", ["2: some[2]: 'foo' is none of near, far"]),
        ("[" * 5000, ["1: document: is not YAML: "]),
        ("[" * 65 + "]" * 65, ["1: document: is not YAML: nested more than 64 deep"]),
    ],
)  # fmt: skip
def test_an_error_has_its_line_and_key(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    found = errors(tmp_path, text)
    assert len(found) == len(expected)
    for line, ours in zip(found, expected, strict=True):  # ours may end where the sentence of a library begins
        assert line.startswith(ours) if ours.endswith(": ") else line == ours


def test_all_errors_are_found_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "rate: x\nparts:\n- {size: 0, knd: a}\n- {kind: b}\ntable: {a: [x, 1, y]}\nrate: 3\n"
    places = [tuple(line.split(": ")[:2]) for line in errors(tmp_path, text)]
    first, second = ["parts[0].knd", "parts[0].size"], ["table.a[0]", "table.a[2]"]
    assert [key for _, key in places] == ["name", "rate", *first, "parts[1].kind", *second, "rate"]
    assert [line for line, _ in places] == list("11334556")


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    for path, number in ((tmp_path / "none.yaml", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(InputError, match=f":1: document: cannot be read: {os.strerror(number)}"):
            read(path)
