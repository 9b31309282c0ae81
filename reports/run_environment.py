"""Form of ``environment.json``, which is held against it before anything reads it: it may be of another's hand."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from reports.pages.environment import EnvironmentTree


class _Experiment(msgspec.Struct):
    name: str
    title: str = ""
    description: str = ""
    status: Literal["done", "failed", "skipped"] = "done"
    reason: str | None = None
    seconds: float | None = None
    figures: list[dict[str, Any] | None] = []


class _Suite(msgspec.Struct):
    name: str
    title: str = ""
    paper: str = ""
    description: str = ""
    path: str = ""
    sha256: str = ""
    gate: list[Any] = []
    fronts: list[Any] = []
    sources: dict[str, str] = {}
    experiments: list[_Experiment] = []


class _Environment(msgspec.Struct):
    run: str = ""
    started: datetime | msgspec.UnsetType = msgspec.UNSET
    ended: datetime | None = None
    suites: list[_Suite] = []
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    arguments: list[str] = []
    notes: list[str] = []
    restarts: dict[str, list[str]] = {}
    earlier: list[dict[str, Any]] = []


def read_environment(data: bytes) -> EnvironmentTree:
    """The content of ``environment.json``. Raises ValueError for another form."""
    tree = msgspec.json.decode(data, type=EnvironmentTree)
    msgspec.convert(tree, _Environment)
    return tree
