"""Strict conversion of a YAML document to a type; finds every error, with file, line and key."""

import re
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from bench.suite.document import Document, Key
from nodes.imports import did_you_mean

T = TypeVar("T")
DecHook = Callable[[type, Any], Any]


def convert(
    document: Document, kind: type[T], dec_hook: DecHook | None = None, *, value: Any = msgspec.UNSET, at: Key = ()
) -> T | None:
    """``document`` (or ``value``, which stands at ``at`` in it) as ``kind``; None where problems were noted.

    Every field is looked at, so all errors are found; keys that a Struct does not have are always errors.
    """
    value = document.value if value is msgspec.UNSET else value
    found = list(_problems(value, kind, dec_hook, at))
    for key, message in found:
        if key not in document.unreadable:
            document.problem(key, message)
    return None if found else msgspec.convert(value, kind, dec_hook=dec_hook)


def sound(document: Document, kind: type[T], value: Any, at: Key) -> T | None:
    """What is left of ``value`` at ``at`` without the keys noted as wrong, for later checks; None if too little."""
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if name not in document.wrong(at)}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _problems(value: Any, kind: Any, dec_hook: DecHook | None, at: Key) -> Iterator[tuple[Key, str]]:
    inner = list(_inner(value, _alternative(kind, value), dec_hook, at))
    yield from inner
    if inner:
        return
    try:
        msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        yield (*at, *_path(path)), _choice(_alternative(kind, value), value) or message


def _inner(value: Any, kind: Any, dec_hook: DecHook | None, at: Key) -> Iterator[tuple[Key, str]]:
    arguments = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        if not isinstance(value, dict):
            yield at, f"expected a mapping with {', '.join(fields)}"
            return
        tag = kind.__struct_config__.tag_field
        for name in value.keys() - fields.keys() - {tag}:
            yield (*at, name), f"unknown key{did_you_mean(name, fields.keys() - value.keys())}"
        for name, field in fields.items():
            if name in value:
                yield from _problems(value[name], field.type, dec_hook, (*at, name))
            elif field.required:
                yield (*at, name), "this key is required"
    elif get_origin(kind) in (list, tuple, set, frozenset) and isinstance(value, list):
        fixed = get_origin(kind) is tuple and arguments[-1:] != (...,)
        kinds = arguments if fixed else arguments[:1] * len(value)
        if len(kinds) == len(value):
            for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
                yield from _problems(item, item_kind, dec_hook, (*at, index))
    elif get_origin(kind) is dict and isinstance(value, dict):
        for name, item in value.items():
            yield from _problems(name, arguments[0], dec_hook, (*at, name))
            yield from _problems(item, arguments[1], dec_hook, (*at, name))


def _alternative(kind: Any, value: Any) -> Any:
    """``kind`` without Annotated, and of a union the member whose shape is the value's."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    for member in (_alternative(member, value) for member in get_args(kind)):
        if isinstance(value, list) and get_origin(member) in (list, tuple, set, frozenset):
            return member
        if isinstance(value, str) and get_origin(member) is Literal:
            return member
        if isinstance(value, dict) and (get_origin(member) is dict or _tagged(member, value)):
            return member
    return kind


def _tagged(kind: Any, value: dict[str, Any]) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return False
    config = kind.__struct_config__
    return config.tag_field is None or value.get(config.tag_field) == config.tag


def _choice(kind: Any, value: Any) -> str | None:
    if get_origin(kind) is not Literal:
        return None
    words = [str(word) for word in get_args(kind)]
    return f"{value!r:.80} is none of {', '.join(words)}{did_you_mean(str(value), words)}"


def _path(path: str) -> Key:
    """msgspec's ``.experiments[0].run`` (after its ``$``) as a key; ``[...]``, its any, ends it."""
    parts = re.findall(r"\.([^.\[`]+)|\[(\d+)\]", path.partition("[...]")[0])
    return tuple(name or int(index) for name, index in parts)
