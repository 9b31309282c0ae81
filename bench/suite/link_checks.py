"""Can those who are to shape an experiment's links do what its parameters ask of them? Looks, and runs nothing."""

from collections.abc import Iterator
from typing import Any

import msgspec

from bench.suite.document import Key
from bench.suite.experiment import ShapingChecked
from netem.profiles import Duplex
from reports.record import Mode, ShapingBackend


def misfits(parameters: Any, mode: Mode, shaping: ShapingBackend) -> Iterator[tuple[Key, str]]:
    """(key, message) of what links in ``parameters``, wherever they stand, have that ``shaping`` cannot do."""
    if mode == "in-process" or shaping == "none":
        return
    if isinstance(parameters, ShapingChecked):
        yield from parameters.check_shaping(shaping)
    for key, link in _links(parameters, ()):
        if link.half_duplex and shaping in ("kernel", "tbf+emulated"):
            yield (*key, "half_duplex"), "the kernel's links have two directions of their own; give --shaping emulated"
        if shaping == "kernel":
            continue
        for direction, profile in (("up", link.up), ("down", link.down)):
            try:
                profile.check_stream()
            except ValueError as error:
                yield (*key, direction), str(error)


def _links(value: Any, key: Key) -> Iterator[tuple[Key, Duplex]]:
    """Every link within ``value``, and where it stands."""
    if isinstance(value, Duplex):
        yield key, value
        return
    parts: Any = ()
    if isinstance(value, msgspec.Struct):
        parts = [(field.encode_name, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for name, part in parts:
        yield from _links(part, (*key, name))
