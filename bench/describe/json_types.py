"""JSON Schema of types, with the defaults and comments of the fields of Structs."""

import types
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from bench.describe.parameters import NAMES, comments_of, docs_of, plain_default

Schema = dict[str, Any]
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
LIMITS = {
    **{"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "pattern": "pattern"},
}


class Definitions:
    """The schemas of Structs by name, gathered as types are turned into schemas that refer to them."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}
        self._names: dict[type, str] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of ``kind``."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self.of(arguments[0]) | {key: limit for meta in arguments[1:] for key, limit in _limits(meta)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in arguments]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is not None:
            return self._array(origin, arguments)
        return self._of_class(kind)

    def _array(self, origin: Any, arguments: tuple[Any, ...]) -> Schema:
        if origin is tuple and arguments[-1:] != (...,):
            items = [self.of(one) for one in arguments]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        return {"type": "array", "items": self.of(arguments[0])}

    def _of_class(self, kind: Any) -> Schema:
        if kind in NAMES:
            return {"description": NAMES[kind], "type": ["string", "object"]}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [one.value for one in kind]}
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return {"$ref": f"#/$defs/{self.name(kind)}"}
        return {"type": PLAIN[kind]} if kind in PLAIN else {}

    def name(self, kind: type[msgspec.Struct]) -> str:
        """The name of the definition of ``kind``, made where there is none; of two of one name, with its module."""
        if kind not in self._names:
            name = kind.__name__
            self._names[kind] = f"{kind.__module__}.{name}" if name in self.found else name
            self.found[self._names[kind]] = {}
            self.found[self._names[kind]] = self._struct(kind)
        return self._names[kind]

    def _struct(self, kind: type[msgspec.Struct]) -> Schema:
        comments, properties, required = comments_of(kind), {}, []
        config = kind.__struct_config__
        if config.tag_field:
            properties[config.tag_field] = {"const": config.tag}
            required.append(config.tag_field)
        for field in msgspec.structs.fields(kind):
            properties[field.encode_name] = schema = self.of(field.type)
            if comment := comments.get(field.name):
                schema["description"] = comment
            if field.required:
                required.append(field.encode_name)
            else:
                schema["default"] = plain_default(field)
        found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            found["required"] = required
        if docs := docs_of(kind):
            found["description"] = docs[0]
        return found


def _limits(meta: Any) -> Iterator[tuple[str, Any]]:
    for name, key in LIMITS.items():
        if (limit := getattr(meta, name, None)) is not None:
            yield key, limit
