"""Check of the links in an experiment's parameters against the shaping of a run, before it begins."""

from collections.abc import Iterator
from typing import Any

import msgspec

from bench.suite.document import Key
from bench.suite.experiment import Checked, Setting
from netem.profiles import Duplex
from reports.record import Mode, ShapingBackend


def misfits(parameters: Any, mode: Mode, dataset: str, shaping: ShapingBackend) -> Iterator[tuple[Key, str]]:
    """(key, message) of every property of a link anywhere in ``parameters`` that ``shaping`` cannot provide."""
    if mode == "in-process" or shaping == "none":
        return
    if isinstance(parameters, Checked):
        problems = parameters.problems(Setting(mode, dataset, shaping))
        yield from ((problem.key, problem.message) for problem in problems if not problem.unused)
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
